"""The study's own MLflow run: the parent of all its runs, the question, the answer, and the table"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml
from matplotlib.figure import Figure

from remix_study.config import StudyConfig
from remix_study.media.store import ClipStore
from remix_study.study.results import StudyResult
from remix_study.tracking.mlflow import MLflowTracker, close_stale, create_parent
from remix_study.tracking.tracker import finishing


class Presentation(NamedTuple):
    """What a result looks like: file name -> text, file name -> figure."""

    texts: Mapping[str, str]
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class StudyRecord:
    """Writes nothing where the study is not tracked."""

    tracker: MLflowTracker | None
    uri: str
    experiment: str
    folder: Path

    @property
    def run_id(self) -> str | None:
        return None if self.tracker is None else self.tracker.run_id

    def conclude(self, result: StudyResult, shown: Presentation, run_ids: Mapping[str, Mapping[int, str]]) -> None:
        """The answer on the parent; sufficiency on every replicate, where a reviewer sorts by it."""
        if self.tracker is None:
            return
        for name, text in shown.texts.items():
            self.tracker.log_text(text, name)
        for name, figure in shown.figures.items():
            self.tracker.log_figure(figure, name)
        self.tracker.set_tags({"mlflow.note.content": f"{result.question}\n\n{result.sentence}"})
        for contender in result.contenders:
            for number, run_id in run_ids.get(contender.name, {}).items():
                found = {k: v for k, v in contender.seeds[number].items() if k.startswith("sufficiency/")}
                if found:
                    child = MLflowTracker(self.uri, self.experiment, folder=self.folder / "sufficiency" / run_id)
                    child.attach(run_id)
                    child.log_metrics(found, 0)


@contextmanager
def recording(
    uri: str | None, experiment: str, study: StudyConfig, store: ClipStore, folder: Path
) -> Iterator[StudyRecord]:
    """The study's parent run, opened or found again, and ended as what it was; no child of it stays RUNNING."""
    if uri is None:
        yield StudyRecord(None, "", experiment, folder)
        return
    tags = {"remix_study.study": study.name, "remix_study.stage": "study"}
    parent = create_parent(
        uri,
        experiment,
        study.name,
        tags,
        {
            "question": study.question,
            "trials": study.trials,
            "replicates": study.replicates,
            "sampler": study.sampler,
            "corpus": store.name,
            "corpus_digest": store.digest,
        },
    )
    tracker = MLflowTracker(uri, experiment, folder=folder)
    tracker.attach(parent)
    tracker.log_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False), "study.yaml")
    # What a driver that was killed left open; runs that are taken up again open themselves.
    close_stale(uri, experiment, {"remix_study.study": study.name}, keep={parent})
    try:
        with finishing(tracker):
            yield StudyRecord(tracker, uri, experiment, folder)
    finally:
        close_stale(uri, experiment, {"remix_study.study": study.name}, keep={parent})
