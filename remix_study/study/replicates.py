"""Replicates: the chosen hyperparameters of a method, trained again with seeds that were not used to choose them

Stage `replicate` is the study's own comparison, stage `final` is what `retrain` adds. The result of a replicate is in
its run folder. The storage keeps a note of it for readers that do not have the folder.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from remix_study.launch.folder import RunFolder
from remix_study.study.ledger import FINAL, REPLICATE, has_diverged
from remix_study.study.search import Search
from remix_study.study.search_space import Params

SEEDS_OF_STUDY = 1_000_000  # a block of seeds for each study seed
_FIRST = {REPLICATE: 0, FINAL: SEEDS_OF_STUDY // 2}


def replicate_seed(study_seed: int, stage: str, number: int) -> int:
    """Return the seed of a replicate.

    It is in a block of its own for each seed of a study: 1,000,000 to 1,999,999 for seed 0. So a second study with
    another seed is an independent replication, and no replicate has the seed of a trial (`study_seed`, plus the number
    of the run within the trial).
    """
    return SEEDS_OF_STUDY * (study_seed + 1) + _FIRST[stage] + number


class Replicates:
    """The replicates of one method and stage.

    Args:
        wanted: number of replicates.
        params: the chosen hyperparameters.
        folder_of: returns the run folder of a replicate, by its number.
        needs_of: returns the runs that a replicate needs, by its number: method -> run folder, relative to the study's.

    Attributes:
        summaries: of the runs of complete replicates, by number.
        failed: the reasons of replicates that failed since this object was made, by number.
        superseded: folders of replicates of what was chosen before.
    """

    def __init__(
        self,
        search: Search,
        stage: str,
        wanted: int,
        params: Params,
        folder_of: Callable[[int], Path],
        needs_of: Callable[[int], dict[str, str]] = lambda number: {},  # noqa: ARG005 - default of a callback
    ) -> None:
        self._search, self._folder_of, self._needs_of = search, folder_of, needs_of
        self.stage, self.wanted, self.params = stage, wanted, dict(params)
        self.summaries: dict[int, dict[str, float]] = {}
        self.failed: dict[int, str] = {}
        self.superseded: list[Path] = []
        self._started: set[int] = set()
        self._earlier: dict[int, dict[str, Any]] = {}  # number -> run folder -> what that superseded run used
        self._failed_before: dict[int, list[str]] = {}

    def resume(self) -> None:
        """Read the replicates that are complete.

        Those of hyperparameters that were chosen before, of another training split, or that needed other runs, are
        superseded.
        """
        notes = self._search.replicate_notes()
        for number in range(self.wanted):
            folder = self._folder_of(number)
            note = notes.get(f"{self.stage} {number}")
            same = note is not None and self._is_current(number, note)
            earlier = dict(note.get("earlier", {})) if note is not None else {}
            if note is not None and same:
                self._failed_before[number] = [*note.get("failed_before", [])]
                if note["state"] == "failed":  # it is run again
                    self._failed_before[number].append(note.get("reason") or "unknown")
            elif note is not None:
                replaced = folder.with_name(Path(note["folder"]).name)
                self.superseded.append(replaced)
                # A killed run has done more than its note says. Its folder may be gone.
                more = {"seconds": RunFolder(replaced).seconds, "work": RunFolder(replaced).work}
                used = max(more, note, key=lambda known: known.get("seconds", 0.0))
                earlier[note["folder"]] = {key: note[key] for key in ("state", "params")} | {
                    key: used[key] for key in ("seconds", "work") if key in used
                }
            earlier.pop(self._relative(folder), None)  # it was chosen before, and is chosen again
            self._earlier[number] = earlier
            result = RunFolder(folder).result()
            if result is not None:
                self.summaries[number] = result
                self.note(number, "complete")
        further = {int(key.split()[1]): note for key, note in notes.items() if key.split()[0] == self.stage}
        for number, note in further.items():
            outdated = not self._is_current(number, note)
            if number >= self.wanted and outdated != note.get("superseded", False):
                self._search.note_replicate(self.stage, number, note | {"superseded": outdated})
                if outdated:
                    self.superseded.append(self._folder_of(number).with_name(Path(note["folder"]).name))

    def _is_current(self, number: int, note: Mapping[str, Any]) -> bool:
        """Whether a noted run has the chosen hyperparameters, the training split and the needed runs of this object."""
        return Path(note["folder"]).name == self._folder_of(number).name and bool(note["params"] == self.params)

    @property
    def complete(self) -> int:
        """Number of replicates that are complete."""
        return len(self.summaries)

    @property
    def coming(self) -> int | None:
        """Number of the next replicate to start; None if this process has started all of them."""
        left = (n for n in range(self.wanted) if n not in self.summaries and n not in self._started)
        return next(left, None)

    def next(self) -> int:
        """Number of the next replicate, recorded as running."""
        number = self.coming
        assert number is not None, "all replicates were started"
        self._started.add(number)
        self.note(number, "running")
        return number

    def tell(self, number: int, state: str, summary: dict[str, float] | None, **attributes: Any) -> None:
        """Record how a replicate ended. `summary`: of its run, if it is complete."""
        if summary is not None:
            self.summaries[number] = summary
        elif state == "failed":
            self.failed[number] = attributes.get("reason") or "for an unknown reason"
        self.note(number, state, **attributes)

    def note(self, number: int, state: str, **attributes: Any) -> None:
        """Record a replicate's state in the storage."""
        folder = self._folder_of(number)
        note = {
            "state": state,
            "folder": self._relative(folder),
            "params": self.params,
            "seconds": RunFolder(folder).seconds,
            "work": RunFolder(folder).work,
        }
        more = {key: value for key, value in attributes.items() if value is not None}
        if needs := self._needs_of(number):
            more["needs"] = needs
        if self._earlier.get(number):
            more["earlier"] = self._earlier[number]
        if self._failed_before.get(number):
            more["failed_before"] = self._failed_before[number]
        if has_diverged(self.summaries.get(number, {})):
            more["diverged"] = True
        self._search.note_replicate(self.stage, number, note | more)

    @staticmethod
    def _relative(folder: Path) -> str:
        """The folder of a run, relative to the study's, which may be read under another path."""
        return f"{folder.parent.name}/{folder.name}"
