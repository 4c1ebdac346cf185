"""Reading the run folders of other runs, which a run learns from or replays"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from remix_study.config.load import parse_run
from remix_study.config.method import REPLAYED, replayed_of, teachers_of
from remix_study.config.run import RunConfig
from remix_study.errors import ConfigError
from remix_study.files.urls import is_url, path_of
from remix_study.launch.folder import RunFolder
from remix_study.launch.working_copy import working_copy
from remix_study.media.store import ClipStore


@contextmanager
def opened(place: str, *, checkpoints: bool) -> Iterator[RunFolder]:
    """A run folder, or a copy of that at a URL."""
    url = place if is_url(place) else None
    local = Path(place.rstrip("/").rpartition("/")[2]) if url is not None else path_of(place)
    with working_copy(local, url) as copy:
        copy.pull(checkpoints=checkpoints)
        yield RunFolder(copy.folder)


def digest_of(place: str) -> str:
    """The digest of the run in a folder or at a URL; empty if there is no run."""
    with opened(place, checkpoints=False) as folder:
        return folder.digest


def named_runs(config: RunConfig) -> dict[str, str]:
    """The runs that a configuration names: modality -> folder of its teacher, `REPLAYED` -> folder of that run."""
    teachers, replayed = teachers_of(config.method), replayed_of(config.method)
    found = dict(teachers) if isinstance(teachers, dict) else {}
    return found if replayed is None or replayed.run is None else {**found, REPLAYED: replayed.run}


def recorded_config(folder: RunFolder) -> RunConfig | str:
    """The configuration of a run, or why there is none, as the rest of a sentence that begins with `it`."""
    content = folder.config()
    if not content:
        return "it is not a run folder"
    try:
        return parse_run(content, "it")
    except ConfigError as error:
        return f"its configuration is not valid in this version ({' '.join(str(error).split())})"


def mismatch(config: RunConfig, store: ClipStore, folder: RunFolder) -> str | None:
    """Why a run was not trained on a corpus; None if it was."""
    needed = {name: digest_of(place) for name, place in named_runs(config).items()}
    if config.digest(store.digest, needed) != folder.digest:
        return f"it was trained on another corpus than {store.path}, or with a version that gives other results"
    return None


def incomplete(folder: RunFolder) -> str | None:
    """Why a run is not complete; None if it is."""
    return None if folder.result() is not None else "its run is not complete; rerun its command to complete it"
