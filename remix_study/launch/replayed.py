"""Replayed runs: complete runs with Remix, whose numbers of samples in each epoch another run repeats at random

The digest of the replayed run enters the digest of every run that replays it.
"""

from collections.abc import Mapping

from remix_study.assemble import split_rows
from remix_study.config.assignment import ReplayConfig
from remix_study.config.method import REPLAYED, RemixConfig, names_of, replay_problem, replayed_of
from remix_study.config.run import RunConfig
from remix_study.errors import ConfigError, TrainingError
from remix_study.files.urls import shown
from remix_study.launch.folder import RunFolder
from remix_study.launch.other_run import incomplete, mismatch, opened, recorded_config
from remix_study.media.store import ClipStore
from remix_study.networks import modalities_of
from remix_study.remix.course import Course, read_course

_REMEDY = "Name the folder of a complete run of Remix with the same training clips, epochs and warm-up."


def require_replayed(config: RunConfig, store: ClipStore) -> dict[str, str]:
    """Check the run that a configuration replays, and return `REPLAYED` -> its digest; nothing if it replays none.

    Args:
        config: a configuration that fits `store`.

    Raises:
        ConfigError: the run does not fit.
        SourceError: the service of a URL does not answer, or denies access.
    """
    rule = replayed_of(config.method)
    if rule is None:
        return {}
    if rule.run is None:
        raise ConfigError(
            f"`method.filter.run` must name the run that `{rule.rule}` replays. {_REMEDY} In a study, write "
            f"`{rule.rule}: METHOD` as the only key of a method."
        )
    with opened(rule.run, checkpoints=False) as folder:
        found = _course(config, store, folder)
        if isinstance(found, str):
            raise ConfigError(_sentence(rule, found))
        return {REPLAYED: folder.digest}


def load_course(config: RunConfig, store: ClipStore, digests: Mapping[str, str]) -> Course | None:
    """Load the course of the run that a configuration replays; None if it replays none.

    Args:
        digests: what `require_replayed` returned.

    Raises:
        TrainingError: the run is missing, not complete, or another one.
    """
    rule = replayed_of(config.method)
    if rule is None or rule.run is None:
        return None
    with opened(rule.run, checkpoints=False) as folder:
        found = _course(config, store, folder)
        if not isinstance(found, str) and folder.digest != digests[REPLAYED]:
            found = f"it holds another run (digest {folder.digest}, not {digests[REPLAYED]})"
    if isinstance(found, str):
        raise TrainingError(_sentence(rule, found))
    return found


def _sentence(rule: ReplayConfig, problem: str) -> str:
    assert rule.run is not None
    return f"{shown(rule.run)} cannot be replayed by `{rule.rule}`: {problem}. {_REMEDY}"


def _course(config: RunConfig, store: ClipStore, folder: RunFolder) -> Course | str:
    """The course of a run, or why it cannot be replayed."""
    other = recorded_config(folder)
    if isinstance(other, str):
        return other
    if not isinstance(other.method, RemixConfig) or not isinstance(config.method, RemixConfig):
        return f"it was trained with {'+'.join(names_of(other.method))}, which does not assign samples to modalities"
    if (again := replayed_of(other.method)) is not None:
        return f"it replays another run itself ({again.rule})"
    if (unclear := replay_problem(other.method, len(modalities_of(other, store)))) is not None:
        return unclear
    if (problem := mismatch(other, store, folder) or incomplete(folder)) is not None:
        return problem
    for name, its, own in (
        ("`epochs`", other.epochs, config.epochs),
        ("`method.warmup`", other.method.warmup, config.method.warmup),
        ("the number of training clips", *(len(split_rows(each, store)["train"]) for each in (other, config))),
    ):
        if its != own:
            return f"{name} is {its} there, but {own} in this run"
    history = folder.history
    if len(history) != other.epochs:
        return f"its history has {len(history)} of {other.epochs} epochs"
    try:
        return read_course(history, modalities_of(other, store), len(split_rows(other, store)["train"]))
    except ValueError as error:
        return str(error)
