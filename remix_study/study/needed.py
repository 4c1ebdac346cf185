"""Runs that other runs need: which methods of a study need the runs of which others, and which of their runs

A method with teachers needs the runs of the methods that are the ceilings of the modalities (`ceiling_of`). The run of
a trial with the n-th seed needs the run with the n-th seed of a ceiling's chosen trial, and replicate k needs replicate
k of the ceiling. So both runs have the same seed, and leave out the same control clips. A ceiling is searched first.
Its runs are trained once, and count in the budget of every method that needs them.

A method that replays another one (`random_at_share_of`) has no trials. Its replicate k needs replicate k of that
method, and all runs that this one needs.

Does not import torch, so that the report and the terminal show results quickly.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic import TypeAdapter, ValidationError

from remix_study.config.method import REPLAYED, MethodConfig, teachers_of
from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError
from remix_study.study.dimensions import corners
from remix_study.study.search_space import chosen_space, run_content

_METHOD: TypeAdapter[MethodConfig] = TypeAdapter(MethodConfig)


def ceilings_of(study: StudyConfig) -> dict[str, str]:
    """Modality -> the method that is its ceiling; of several, the first."""
    found: dict[str, str] = {}
    for name, method in study.methods.items():
        if method.ceiling_of is not None:
            found.setdefault(method.ceiling_of, name)
    return found


def needed_methods(study: StudyConfig, settings: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Method -> what for -> the method whose runs it needs, of every method of the study.

    A run is needed as the teacher of a modality, or is the one that is replayed (`REPLAYED`), which comes last. It is
    empty for a method that needs no runs, and for one whose configuration is not valid in this version.

    Args:
        settings: dotted keys that override the study's `base`.
    """
    found = {}
    for name, method in study.methods.items():
        found[name] = ceilings_of(study) if _has_teachers(study, name, settings) else {}
        if method.replay is not None:
            found[name][REPLAYED] = method.replay.method
    return found


def _has_teachers(study: StudyConfig, name: str, settings: Mapping[str, Any]) -> bool:
    for params in (*study.methods[study.searched(name)].first, *corners(chosen_space(study, name))):
        with suppress(ConfigError, KeyError, ValidationError):
            # Only the method is validated, because status checks read this often.
            content = run_content(study, name, params, study.seed, settings, control=0.0)
            if teachers_of(_METHOD.validate_python(content["method"])) == "train":
                return True
    return False
