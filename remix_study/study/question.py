"""The question of a study: the settings that may not change once it has trials

Trials of one search space or corpus cannot be compared with those of another. The number of trials and replicates, the
budget and the resources may change.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remix_study import version
from remix_study.config.identity import SEMANTICS, identity
from remix_study.config.load import put
from remix_study.config.study import StudyConfig
from remix_study.config.yaml_source import dump
from remix_study.errors import StudyError
from remix_study.files.disk import write_atomically

CONFIG = "study.yaml"  # the study as it was last run, with its corpus
QUESTION = "question.json"
_GROWS = {"trials", "replicates", "concurrency", "budget", "resources", "storage", "unequal"}
_SHOWN = 12
_EXPONENT = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+")


def require_same_question(config: StudyConfig, corpus_digest: str, folder: Path) -> None:
    """Check that the study in `folder`, if there is one, asked the same question.

    Raises:
        StudyError: the study there asked something else (the message shows the differences), or it began under other
            semantics.
    """
    known = folder / QUESTION
    if not known.exists():
        return
    recorded, asked = _recorded(known), question_of(config, corpus_digest)
    before = recorded.get(SEMANTICS, 1)
    if before != version.SEMANTICS:
        raise StudyError(
            f"Cannot resume the study in {folder}: it began under semantics {before} of remix_study, and this version "
            f"({version.__version__}) has semantics {version.SEMANTICS}: equal settings give other results. "
            "Give the study another `name` to run it again, or install the version that it began with. Its report and "
            "export can still be written."
        )
    changed = differences(recorded, asked)
    if not changed:
        return
    lines = [f"  - {path}: {before} -> {now}" for path, (before, now) in list(changed.items())[:_SHOWN]]
    more = [f"  - and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
    raise StudyError(
        f"the study in {folder} must be asked the same question, but something has changed since it began:\n"
        + "\n".join([*lines, *more])
        + "\nChange it back, give this study another `name`, or remove that folder. (`trials`, `replicates`, `budget`, "
        "`concurrency`, `resources`, `unequal` may change.)"
    )


def write_question(config: StudyConfig, settings: Mapping[str, Any], corpus_digest: str, folder: Path) -> None:
    """Write the question, and the study as it is run, so that any process can read and resume it."""
    write_atomically(folder / QUESTION, json.dumps(question_of(config, corpus_digest), indent=1))
    resolved = config.model_dump(mode="json")
    for path, value in settings.items():
        put(resolved["base"], path, value)
    write_atomically(folder / CONFIG, dump(resolved))


def corpus_digest(folder: Path) -> str | None:
    """Digest of the corpus of the study in `folder`; None if it was not started."""
    known = folder / QUESTION
    return str(_recorded(known).get("corpus")) if known.exists() else None


def _recorded(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = {} | json.loads(path.read_text())
        return content
    except (ValueError, TypeError) as error:
        raise StudyError(
            f"Cannot read {path}, which records the question of the study: {error}. Restore it, or give the study "
            "another `name`."
        ) from error


def question_of(config: StudyConfig, corpus_digest: str) -> dict[str, Any]:
    content = {**identity(config, exclude=_GROWS), "corpus": corpus_digest}
    content["base"] = {key: value for key, value in content["base"].items() if key not in ("corpus", "tracking")}
    plain: dict[str, Any] = json.loads(json.dumps(content))  # as it will be read back
    return plain


def differences(before: Any, now: Any, path: str = "") -> dict[str, tuple[str, str]]:
    """Dotted path -> (before, now) of every value that differs; `nothing` on the side without it."""
    if isinstance(before, dict) and isinstance(now, dict):
        found: dict[str, tuple[str, str]] = {}
        for key in dict.fromkeys([*before, *now]):
            inner = f"{path}.{key}" if path else str(key)
            found |= differences(before.get(key, _Nothing), now.get(key, _Nothing), inner)
        return found
    return {} if before == now or _as_number(before) == now else {path: (_shown(before), _shown(now))}


def _as_number(before: Any) -> Any:
    """`before`, or the number that it spells: version 0.1 read `1e-3` as a string."""
    return float(before) if isinstance(before, str) and _EXPONENT.fullmatch(before) else before


class _Nothing:
    """Stands for a missing value."""


def _shown(value: Any) -> str:
    return "nothing" if value is _Nothing else json.dumps(value)
