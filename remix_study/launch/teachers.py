"""Teachers: the encoders of complete unimodal runs, from whose features another run learns

A teacher is named by its modality and its run folder, or the folder's URL. Its digest is that of its run, and enters
the digest of every run that learns from it.
"""

from collections.abc import Mapping

import torch

from remix_study.config.load import parse_run
from remix_study.config.method import UnimodalConfig, names_of, teachers_of
from remix_study.config.run import RunConfig
from remix_study.errors import ConfigError, TrainingError
from remix_study.files.urls import shown
from remix_study.launch.folder import CHECKPOINTS, RunFolder
from remix_study.launch.other_run import incomplete, mismatch, opened, recorded_config
from remix_study.media.store import ClipStore
from remix_study.models import Encoder
from remix_study.networks import build_model, encoder_of, modalities_of
from remix_study.training.checkpoint import BEST, LAST, Checkpoints

_REMEDY = "Name the folder of a complete run with `method: {name: unimodal}`, or use `teachers: train`."


def require_teachers(config: RunConfig, store: ClipStore) -> dict[str, str]:
    """Check the teachers that a configuration names, and return modality -> digest of the teacher's run.

    Args:
        config: a configuration that fits `store`. Without named teachers, there is nothing to check.

    Raises:
        ConfigError: lists every teacher that does not fit.
        SourceError: the service of a URL does not answer, or denies access.
    """
    named = teachers_of(config.method)
    if not isinstance(named, dict):
        return {}
    digests, problems = {}, []
    for m, place in named.items():
        with opened(place, checkpoints=False) as folder:
            digests[m] = folder.digest
            problem = _problem(config, store, m, folder)
        if problem is not None:
            problems.append(f"{shown(place)} cannot be the teacher of {m}: {problem}")
    if problems:
        raise ConfigError(f"{' '.join(f'{each}.' for each in problems)} {_REMEDY}")
    return digests


def load_teachers(
    config: RunConfig, store: ClipStore, device: torch.device, digests: Mapping[str, str]
) -> dict[str, Encoder]:
    """Load the encoders of the teachers that a configuration names, modality -> encoder, in evaluation mode.

    They have the weights of the epoch that their run selected. Their parameters need no gradient.

    Args:
        digests: modality -> digest that the teacher's run must have.

    Raises:
        TrainingError: a teacher's run is missing, not complete, or another one.
    """
    named = teachers_of(config.method)
    found = {}
    for m, place in named.items() if isinstance(named, dict) else ():
        with opened(place, checkpoints=True) as folder:
            problem = _problem(config, store, m, folder)
            if problem is None and folder.digest != digests[m]:
                problem = f"it holds another run (digest {folder.digest}, not {digests[m]})"
            if problem is not None:
                raise TrainingError(f"{shown(place)} cannot be the teacher of {m}: {problem}. {_REMEDY}")
            found[m] = _encoder(folder, store, m).to(device)
            if config.channels_last:
                found[m].to(memory_format=torch.channels_last)
    return found


def untrained_teachers(config: RunConfig, store: ClipStore) -> dict[str, Encoder]:
    """Stand-ins for the teachers of a configuration, to measure what a run costs; empty if it needs none."""
    if teachers_of(config.method) is None:
        return {}
    return {m: _untrained(config, store, m) for m in modalities_of(config, store)}


def _untrained(config: RunConfig, store: ClipStore, modality: str) -> Encoder:
    alone = config.model_copy(update={"method": UnimodalConfig(name="unimodal", modality=modality)})
    return _frozen(build_model(alone, store).encoders[modality])


def _problem(config: RunConfig, store: ClipStore, modality: str, folder: RunFolder) -> str | None:
    """Why a run cannot be the teacher of a modality; None if it can."""
    teacher = recorded_config(folder)
    if isinstance(teacher, str):
        return teacher
    if not isinstance(teacher.method, UnimodalConfig):
        return f"it was trained with {'+'.join(names_of(teacher.method))}, not with one modality alone"
    if teacher.method.modality != modality:
        return f"it was trained on {teacher.method.modality}"
    if (problem := mismatch(teacher, store, folder)) is not None:
        return problem
    own, its = (encoder_of(each.model, modality, store.preset.parts[modality]) for each in (config, teacher))
    if own != its:
        return f"its encoder is {its.model_dump()}, but that of this run is {own.model_dump()}"
    return incomplete(folder)


def _encoder(folder: RunFolder, store: ClipStore, modality: str) -> Encoder:
    teacher = parse_run(folder.config(), "the teacher")
    name = BEST if teacher.evaluation.select == "best" else LAST
    content = Checkpoints(folder.path / CHECKPOINTS).load(name)
    if content is None:
        raise TrainingError(
            f"Cannot load the teacher of {modality}: {folder.path / CHECKPOINTS / name} does not exist. Delete the "
            "folder of its run and rerun the command to train it again."
        )
    model = build_model(teacher, store)
    model.load_state_dict(content["model"])
    return _frozen(model.encoders[modality])


def _frozen(encoder: torch.nn.Module) -> Encoder:
    assert isinstance(encoder, Encoder)
    return encoder.eval().requires_grad_(False)
