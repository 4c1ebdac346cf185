"""Names that become folders, metrics and tags: of studies, methods and modalities

Class names, clip ids and questions are free text, and an experiment has any name that MLflow takes: none of them is
part of a path.
"""

import re

MODALITY = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"  # of a study or a method
_LONGEST_SHOWN = 70  # characters


def is_name(name: str) -> bool:
    """Whether `name` may be that of a study or a method."""
    return re.fullmatch(NAME, name) is not None


def is_modality(name: str) -> bool:
    """Whether `name` may be that of a modality: as `is_name`, without dots."""
    return re.fullmatch(MODALITY, name) is not None


def name_problem(name: str, *, dots: bool = True) -> str:
    """What is wrong with a name that `is_name` or `is_modality` refuses: " must be a name of ..., but is ...".

    Args:
        dots: whether the name may contain dots, as those of studies and methods.
    """
    kept = "letters, digits, `_`, `-` and `.`" if dots else "letters, digits, `_` and `-`"
    given = repr(name) if len(name) <= _LONGEST_SHOWN else f"{name[:20]!r}... ({len(name)} characters)"
    return (
        f" must be a name of at most 64 {kept} that begins with a letter or digit, because it becomes part of folders "
        f"and metrics, but is {given}"
    )
