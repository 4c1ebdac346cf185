"""Replicates: the chosen point of a method, trained again with seeds that chose nothing

Stage `replicate` is the study's own comparison, stage `final` what `retrain` adds. The truth of a replicate is the
result in its folder; the storage remembers it for who looks on from elsewhere.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from remix_study.launch.folder import RunFolder
from remix_study.study.ledger import FINAL, REPLICATE
from remix_study.study.search import Search
from remix_study.study.search_space import Params

# Far from the search's seeds, and from each other.
FIRST_SEED = {REPLICATE: 1000, FINAL: 2000}


class Replicates:
    """Of one method and stage. `folder_of(number, point)`: the run folder of a replicate."""

    def __init__(self, search: Search, stage: str, wanted: int, folder_of: Callable[[int, Params], Path]) -> None:
        self._search, self._stage, self._folder_of = search, stage, folder_of
        self.wanted = wanted
        self.point: Params | None = None
        self.summaries: dict[int, dict[str, float]] = {}
        self.superseded: list[Path] = []
        self._handed: set[int] = set()

    def settle(self, point: Params) -> None:
        """Of the chosen point; what is complete of it is not run again, what is of an earlier point is superseded."""
        self.point = dict(point)
        for number in range(self.wanted):
            folder = self._folder_of(number, self.point)
            told = self._search.remembered().get(f"{self._stage} {number}")
            if told is not None and told["params"] != self.point:
                self.superseded.append(folder.with_name(Path(told["folder"]).name))
            result = RunFolder(folder).result()
            if result is not None:
                self.summaries[number] = result
                self.note(number, "complete")

    @property
    def complete(self) -> int:
        return len(self.summaries)

    @property
    def left(self) -> int:
        """How many are not complete."""
        return self.wanted - self.complete

    @property
    def coming(self) -> int | None:
        """The number of the next replicate that was not handed out since this start; None: all were."""
        left = (n for n in range(self.wanted) if n not in self.summaries and n not in self._handed)
        return next(left, None)

    def next(self) -> tuple[int, Params]:
        """The coming one and the point, RUNNING from now on."""
        number = self.coming
        assert number is not None, "all were handed out"
        assert self.point is not None, "settle comes first"
        self._handed.add(number)
        self.note(number, "running")
        return number, self.point

    def tell(self, number: int, state: str, summary: dict[str, float] | None, **attributes: Any) -> None:
        if summary is not None:
            self.summaries[number] = summary
        self.note(number, state, **attributes)

    def note(self, number: int, state: str, **attributes: Any) -> None:
        assert self.point is not None, "settle comes first"
        folder = self._folder_of(number, self.point)
        told = {
            "state": state,
            "folder": f"{folder.parent.name}/{folder.name}",  # within the study's, wherever that is seen
            "params": self.point,
            "seconds": RunFolder(folder).seconds,
        }
        self._search.remember(f"{self._stage} {number}", told | {k: v for k, v in attributes.items() if v is not None})
