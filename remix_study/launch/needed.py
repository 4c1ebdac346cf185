"""The runs that a run needs: teachers, from whose encoders it learns, and the run whose shares it replays

They are complete before the run starts, and their digests enter its digest. A study trains them first
(study/needed.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from remix_study.config.run import RunConfig
from remix_study.launch.replayed import load_course, require_replayed
from remix_study.launch.teachers import load_teachers, require_teachers
from remix_study.media.store import ClipStore
from remix_study.models import Encoder
from remix_study.remix.course import Course


@dataclass(frozen=True)
class Needed:
    """What a run takes from the runs that it needs.

    Args:
        teachers: modality -> frozen encoder.
        course: of the run that it replays; None if it replays none.
    """

    teachers: Mapping[str, Encoder] = field(default_factory=dict)
    course: Course | None = None


def require_needed(config: RunConfig, store: ClipStore) -> dict[str, str]:
    """Check the runs that a configuration names, and return their digests by what they are for.

    Args:
        config: a configuration that fits `store`.

    Raises:
        ConfigError: says of the runs that do not fit why.
        SourceError: the service of a URL does not answer, or denies access.
    """
    return require_teachers(config, store) | require_replayed(config, store)


def load_needed(config: RunConfig, store: ClipStore, device: torch.device, digests: Mapping[str, str]) -> Needed:
    """Load what a run takes from the runs that it needs.

    Args:
        digests: those that the runs must have, as `require_needed` returned them.

    Raises:
        TrainingError: a run is missing, not complete, or another one.
    """
    return Needed(load_teachers(config, store, device, digests), load_course(config, store, digests))
