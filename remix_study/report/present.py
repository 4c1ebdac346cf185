"""A study's result, ready to be shown: the files that MLflow and the study's folder receive"""

from pathlib import Path

from remix_study.report.tables import comparison_table, to_csv, to_markdown
from remix_study.study.record import Presentation
from remix_study.study.results import StudyResult, headline
from remix_study.tracking.figures import MethodResults, comparison, draw_comparison


def present(result: StudyResult) -> Presentation:
    table = comparison_table(result)
    texts = {"comparison.csv": to_csv(table), "comparison.md": f"{to_markdown(table)}\n{result.sentence}\n"}
    return Presentation(
        texts, {"comparison.png": draw_comparison(comparison(_methods(result))._replace(title=headline(result)))}
    )


def _methods(result: StudyResult) -> list[MethodResults]:
    prefix = "probe/accuracy/"
    found = []
    for c in result.rivals:
        heads = sorted({k.removeprefix(prefix) for s in c.seeds.values() for k in s if k.startswith(prefix)})
        found.append(
            MethodResults(c.name, c.values("test/accuracy").tolist(), {m: c.values(prefix + m).tolist() for m in heads})
        )
    return found


def write(shown: Presentation, folder: Path) -> None:
    for name, text in shown.texts.items():
        (folder / name).write_text(text)
    for name, figure in shown.figures.items():
        figure.savefig(folder / name, dpi=150)
