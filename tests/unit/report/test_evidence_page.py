"""The page of tables that benchmarks/evidence.py prints, from ledgers of studies"""

from pathlib import Path

from benchmarks.evidence_tables import page
from remix_study.study.ledger import Ledger, ReplicateRecord
from tests.unit.report.conftest import RATE, MakeLedger, MakeStudy, MakeTrial, write_outcomes, write_run


def test_the_page_starts_with_the_confirmation_of_all_recipes(
    tmp_path: Path, make_study: MakeStudy, make_ledger: MakeLedger, make_trial: MakeTrial
) -> None:
    methods = ("joint_unimodal", "random")
    study = make_study(methods={name: {} for name in methods}, reference="joint_unimodal", replicates=10)

    def ledger(of: str, *correct: int) -> Ledger:
        """Of ten replicates of each method, which predict so many of 250 clips correctly, and up to nine more."""
        records = []
        for name, number in ((name, number) for name in methods[: len(correct)] for number in range(10)):
            right = correct[methods.index(name)] + number
            folder = write_run(tmp_path / of / f"{name}-{number}", [{}], {"test/accuracy": right / 250})
            write_outcomes(Path(folder), right)
            records.append(
                ReplicateRecord(name, "replicate", number, "complete", {RATE: 0.01}, folder, 10.0, None, None)
            )
        return make_ledger(*(make_trial(name, 0, 0.8) for name in methods), replicates=tuple(records), study=study)

    of_muted = {"selection": ledger("selection", 150, 200), "confirmation": ledger("confirmation", 160, 170)}
    text = page({"muted": of_muted, "xor": {"selection": ledger("xor")}})
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## All recipes, confirmation", "## muted, selection", "## muted, confirmation"]
    first = next(line for line in text.splitlines() if line.startswith("| `random` | "))
    assert first == "| `random` | 69.8 (+4.0, 10/10) |"
    assert page({"xor": {"selection": ledger("again")}}) == ""
