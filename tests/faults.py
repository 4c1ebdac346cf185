"""Faults of a disk: the Nth operation on files fails, or the process dies there

`Faults` replaces the functions of `remix_study.files.operations`. A write that fails has written half of its bytes. A
process that dies does nothing more to any file: all operations after it raise, too, so that error handlers and `with`
blocks change nothing.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from remix_study.files import operations

FAILING = ("write", "write_at", "reserve", "fsync", "rename", "exchange", "link", "truncate")
ONLY_AFTER_DEATH = ("remove", "remove_folder")  # a full or broken disk still removes


class Killed(BaseException):
    """Raised where the process dies. No handler of the package catches it."""


@dataclass
class Faults:
    """Lets one operation on files fail, or all from one on.

    Args:
        at: number of the operation that fails, from 1.
        how: ENOSPC, EIO, or "killed".
        ever: also let all later operations fail.
        fatal: called where the process dies; by default, raises `Killed`.
    """

    at: int
    how: int | str
    ever: bool = False
    fatal: Callable[[], Any] | None = None
    count: int = 0
    happened: bool = False
    dead: bool = False
    log: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def injected(self) -> Iterator["Faults"]:
        with pytest.MonkeyPatch.context() as patch:
            for name in (*FAILING, *ONLY_AFTER_DEATH):
                patch.setattr(operations, name, self._replaced(name, getattr(operations, name)))
            for module, name in ((os, "unlink"), (os, "rmdir"), (os, "mkdir"), (shutil, "rmtree")):
                patch.setattr(module, name, self._unless_dead(getattr(module, name)))
            yield self

    def _unless_dead(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if self.dead:
                raise Killed
            return real(*args, **options)

        return call

    def _replaced(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if self.dead:
                raise Killed
            if name in FAILING:
                self.count += 1
                if self.count == self.at or (self.ever and self.count > self.at):
                    self.happened = True
                    self._fail(name, real, args)
            return real(*args)

        return call

    def _fail(self, name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.log.append(name)
        if name in ("write", "write_at"):
            content = memoryview(args[1]).cast("B")
            real(args[0], bytes(content[: len(content) // 2]), *args[2:])
        if self.how == "killed":
            self.dead = True
            if self.fatal is not None:
                self.fatal()
            raise Killed
        assert isinstance(self.how, int)
        raise OSError(self.how, os.strerror(self.how))


KINDS = [
    pytest.param(errno.ENOSPC, False, id="full-once"),
    pytest.param(errno.ENOSPC, True, id="full"),
    pytest.param(errno.EIO, False, id="broken-once"),
    pytest.param(errno.EIO, True, id="broken"),
    pytest.param("killed", False, id="killed"),
]


def at_every_operation(
    work: Callable[[Path], object],
    check: Callable[[Path, bool], object],
    place: Callable[[int], Path],
    how: int | str,
    ever: bool,
    first: int = 1,
    step: int = 1,
) -> int:
    """Let the Nth operation of `work` fail, N = first, first + step, ..., until `work` succeeds without a fault.

    Args:
        work: changes files in the folder that it is given.
        check: called after each fault, with the folder and whether `work` ended without an error in spite of it.
        place: returns a folder in the state before `work`, for each N.

    Returns:
        The number of operations of `work`.
    """
    for at in range(first, 10_000, step):
        folder = place(at)
        faults, error = Faults(at, how, ever), None
        with faults.injected():
            try:
                work(folder)
            except BaseException as caught:  # of a killed process, also what its error handlers raise
                error = caught
        if not faults.happened:
            if error is not None:
                raise error
            return faults.count
        assert faults.dead or error is None or isinstance(error, Exception), error
        try:
            check(folder, error is None)
        except BaseException as failure:
            failure.add_note(f"operation {at} ({faults.log[0]}) failed with {how}{' for ever' if ever else ''}")
            raise
    raise AssertionError("the work never succeeds")
