"""What makes two configurations the same: the keys and the meaning that their digests are computed from

A digest names a run folder and guards its checkpoints; a study's question guards its trials. Both must survive new
versions of this package:

- An option that a later version adds is annotated with `Introduced(default)`. At that default it stays out of digests
  and questions, so that everything recorded before the option existed keeps its name. The default recorded here never
  changes, even if the option's own default does.
- `SEMANTICS` (remix_study/version.py) is raised when equal settings begin to mean something else, such as another
  order of random draws. It enters digests and questions, so that old and new results are never mixed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from remix_study import version

SEMANTICS = "semantics"
"""The key of `version.SEMANTICS` in a digest and in a question; absent means 1."""


@dataclass(frozen=True)
class Introduced:
    """Annotation of a key that 0.1.0 did not have: `epochs_frozen: Annotated[int, Introduced(0)] = 0`.

    Args:
        default: the key's value, as JSON, with which a configuration means what it meant before the key existed.
    """

    default: Any


class Elsewhere:
    """Annotation of a key that names other runs by their folders. It stays out of digests, as the path of the corpus.

    The digests of those runs enter the digest instead, so that a moved folder is the same run, and another one is not.
    """


def identity(config: BaseModel, *, exclude: set[str]) -> dict[str, Any]:
    """Return the content of `config` that identifies it, as plain JSON values.

    Args:
        exclude: keys of the top level that may differ between equal configurations.
    """
    content: dict[str, Any] = config.model_dump(mode="json", exclude=exclude)
    _leave_out_introduced(config, content)
    return with_semantics(content)


def with_semantics(content: dict[str, Any]) -> dict[str, Any]:
    """Add the number of today's semantics to `content`; 1, that of version 0.1.0, is left out."""
    return content if version.SEMANTICS == 1 else {**content, SEMANTICS: version.SEMANTICS}


def _leave_out_introduced(value: Any, content: Any) -> None:
    """Remove from `content`, the dump of `value`, every introduced key that is at its recorded default."""
    if isinstance(value, BaseModel):
        if not isinstance(content, dict):  # a part that is dumped as a word
            return
        for name, field in type(value).model_fields.items():
            key = field.alias or name
            if key not in content:
                continue
            # Inner keys first: an introduced part may get further keys, and stays at the default recorded for it.
            _leave_out_introduced(getattr(value, name), content[key])
            defaults = [each.default for each in field.metadata if isinstance(each, Introduced)]
            if content[key] in defaults or any(isinstance(each, Elsewhere) for each in field.metadata):
                del content[key]
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _leave_out_introduced(inner, content[key])
    elif isinstance(value, list | tuple):
        for inner, dumped in zip(value, content, strict=True):
            _leave_out_introduced(inner, dumped)
