"""Checks before a study starts, so that a study that cannot run is refused before any run starts"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from remix_study.config.method import teachers_of
from remix_study.config.problems import Problem, raise_problems
from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.config.yaml_source import Keys, dump
from remix_study.datasets.corpus import open_corpus
from remix_study.errors import StoreError, TrackingError
from remix_study.files.disk import storage_errors
from remix_study.files.mirror import url_of
from remix_study.fit import fit_problems
from remix_study.launch.needed import require_needed
from remix_study.launch.nodes import on_cluster, require_identical_nodes, require_submitted_code
from remix_study.launch.ray_init import join_or_start
from remix_study.launch.run import require_lasting_database, tracking_uri
from remix_study.media.store import ClipStore
from remix_study.networks import encoder_of
from remix_study.study.needed import needed_methods
from remix_study.study.placement import Needs
from remix_study.study.question import CONFIG
from remix_study.study.remote import fetch_study
from remix_study.study.search_space import configure, study_control
from remix_study.study.storage import check_storage, require_driver, study_folder
from remix_study.study.study_file import check_study, in_study, params_to_check
from remix_study.tracking.address import check as check_tracking


def check_before_start(
    config: StudyConfig, settings: Mapping[str, Any], workspace: Path, say: Callable[[str], None]
) -> tuple[list[RunConfig], ClipStore]:
    """Check a study and make its folder.

    Args:
        settings: dotted keys that override the study's `base`.
        workspace: an absolute path.
        say: called with a message for the user.

    Returns:
        Run configurations of all methods at the corners of their search spaces, and the opened corpus.

    Raises:
        ConfigError, StudyError, SourceError, StoreError, TrackingError: the study cannot run.
    """
    folder = study_folder(workspace, config.name)
    check_storage(config.storage, url_of(folder))
    require_driver(config.storage)
    configs = check_study(config, settings)
    try:
        store = open_corpus(configs[0].corpus)
    except StoreError as error:
        error.retry_helps = False  # the corpus is missing or damaged; a service that does not answer is a SourceError
        raise
    require_study_fit(config, settings, store)
    fetch_study(folder, whole=False)
    require_tracking(configs[0], workspace, folder, say)
    if on_cluster():
        require_submitted_code()
        join_or_start()
        require_identical_nodes(workspace, configs[0].corpus)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return configs, store


def require_study_fit(study: StudyConfig, settings: Mapping[str, Any], store: ClipStore) -> None:
    """Check that all runs of a study that `check_study` accepts can run on its corpus and on this machine.

    Raises:
        ConfigError: lists all problems, each once, with its line if the study comes from a file.
    """
    found: list[Problem] = []
    control = study_control(study)
    configs: dict[str, list[RunConfig]] = {name: [] for name in study.methods}
    for name in study.methods:
        for at, params in params_to_check(study, name):
            config = configure(study, name, params, study.seed, settings, control)
            found += [in_study(each, study, study.searched(name), params, at) for each in fit_problems(config, store)]
            configs[name].append(config)
            if study.methods[name].replay is None:  # its run does not exist yet
                require_needed(config, store)
    found += _problems_of_needs(study, settings, store, configs)
    if found:
        once = {(each.keys, each.kind): each for each in reversed(found)}
        raise_problems(study.source, reversed(once.values()), f" with the corpus {store.path}")


def _problems_of_needs(
    study: StudyConfig, settings: Mapping[str, Any], store: ClipStore, configs: Mapping[str, Sequence[RunConfig]]
) -> Iterator[Problem]:
    """Why the runs that methods need cannot be runs of the study."""
    for name, needs in needed_methods(study, settings).items():
        trained = any(teachers_of(config.method) == "train" for config in configs[name])
        if not trained or study.methods[name].replay is not None:
            continue
        at: Keys = ("methods", name)
        missing = [m for m in store.modalities if m not in needs]
        if missing:
            add = {f"{m}_alone": {"set": {"method": {"name": "unimodal", "modality": m}}, "ceiling_of": m}
                   for m in missing}  # fmt: skip
            said = (
                f" needs a run of each modality alone, and the study has none of {' and '.join(missing)}; add to "
                f"`methods`: {dump(add, flow=True).strip()[1:-1]}"
            )
            yield Problem(at, said, kind="needs")
        for m, other in needs.items():
            if m not in store.modalities:
                continue
            part = store.preset.parts[m]
            if len({dump(encoder_of(c.model, m, part).model_dump()) for c in (*configs[name], *configs[other])}) > 1:
                said = (
                    f" needs the same encoder of {m} in all its runs and in those of `{other}`, whose features it "
                    "learns; set `model` in `base` only, and do not search it"
                )
                yield Problem(at, said, kind=f"needs {m}")


def require_tracking(config: RunConfig, workspace: Path, folder: Path, say: Callable[[str], None]) -> None:
    """Check that runs can be tracked. A resumed study sends its data when the server is back.

    Args:
        folder: the study's.

    Raises:
        TrackingError: the study is new and its tracking server does not answer, or its database would not last.
    """
    uri = tracking_uri(config, workspace)
    if uri is None:
        return
    require_lasting_database(uri, workspace)
    try:
        check_tracking(uri)
    except TrackingError as error:
        if not (folder / CONFIG).exists():
            raise
        say(f"Cannot reach the tracking server; the study resumes without it and sends its data later. {error}")


def needs_of(config: StudyConfig, configs: Sequence[RunConfig]) -> Needs:
    """Resources that the runs of a study need; `configs` are as `check_before_start` returns them."""
    workers = max(run.workers for run in configs)
    gpu = any(run.device != "cpu" for run in configs)
    return Needs(config.concurrency, workers, config.resources.cpus, config.resources.gpus, gpu)
