"""JSON schemas of the YAML files, for completion and validation in editors

They are generated from RunConfig and StudyConfig, and published in search_spaces/. In a study, all keys of `base` are
optional, `set` may use dotted keys, and the keys of a `space` are dotted paths of a run. Contradictions between keys
are found only when a file is loaded.
"""

import copy
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from remix_study.config.balancing import Additions
from remix_study.config.fusion import words
from remix_study.config.phases import PRESETS
from remix_study.config.run import RunConfig
from remix_study.config.study import OBJECTIVES, SETTLED, UNSEARCHED, StudyConfig
from remix_study.errors import ConfigError

Schema = dict[str, Any]

_DIALECT = "http://json-schema.org/draft-07/schema#"  # the dialect that YAML language servers support best


def text(kind: str) -> str:
    """The text of `search_spaces/<kind>.schema.json`.

    Args:
        kind: `run` or `study`.

    Raises:
        ConfigError: `kind` is something else.
    """
    match kind:
        case "run":
            schema = run_schema()
        case "study":
            schema = study_schema()
        case _:
            raise ConfigError(f"the schema must be `study` or `run`, but is {kind!r}.")
    return json.dumps(schema, indent=1) + "\n"


def run_schema() -> Schema:
    """The schema of a run, as `remix-study train` reads it."""
    schema = _plain(RunConfig.model_json_schema())
    return {"$schema": _DIALECT, **schema, "title": "A run of remix_study"}


def study_schema() -> Schema:
    """The schema of a study, as `remix-study run` reads it."""
    schema = _plain(StudyConfig.model_json_schema())
    whole, parts = _partial_run()
    definitions = {**schema["$defs"], **parts}
    paths = {path: _any(options) for path, options in sorted(_paths().items())}
    searched = [path for path in paths if not _is_settled(path) and path not in UNSEARCHED]
    open_ = {pattern: {"$ref": "#/$defs/Dimension"} for pattern in _open_patterns()}

    definitions["Dimension"] = schema["properties"]["space"]["additionalProperties"]
    definitions["Base"] = {**whole, "description": "A run; all keys are optional."}
    definitions["Set"] = {
        "type": "object",
        "description": "Changes to `base`: groups of keys, or single keys with dots.",
        "properties": {path: found for path, found in paths.items() if not _is_settled(path) or path == "evaluation"},
        "patternProperties": {pattern: {} for pattern in _open_patterns()},
        "additionalProperties": False,
    }
    definitions["Space"] = {
        "type": "object",
        "properties": {path: {"$ref": "#/$defs/Dimension"} for path in searched},
        "patternProperties": open_,
        "additionalProperties": False,
    }
    definitions["Parameters"] = {
        "type": "object",
        "properties": {path: {} for path in searched},
        "patternProperties": {pattern: {} for pattern in _open_patterns()},
        "additionalProperties": False,
    }
    for name in ("FloatDimension", "IntDimension", "ChoiceDimension"):
        when = definitions[name]["properties"]["when"]
        definitions[name]["properties"]["when"] = {**_what(when), "$ref": "#/$defs/Parameters"}
    method = definitions["MethodSpace"]["properties"]
    method["set"], method["space"] = {"$ref": "#/$defs/Set"}, {"$ref": "#/$defs/Space"}
    method["first"] = {**_what(method["first"]), "type": "array", "items": {"$ref": "#/$defs/Parameters"}}
    definitions["Objective"]["properties"]["metric"] = _METRIC

    top = schema["properties"]
    top["base"], top["space"] = {"$ref": "#/$defs/Base"}, {"$ref": "#/$defs/Space"}
    one = {"anyOf": [_METRIC, {"$ref": "#/$defs/Objective"}]}
    top["objective"] = {
        "description": "one, or several for a Pareto front",
        "anyOf": [*one["anyOf"], {"type": "array", "items": one, "minItems": 1}],
        "default": "best/val_accuracy",
    }
    pruner = top["pruner"]
    words = [definitions[_name(each)]["properties"]["name"]["const"] for each in pruner["anyOf"]]
    top["pruner"] = {**_what(pruner), "anyOf": [{"enum": words}, *pruner["anyOf"]], "default": "none"}
    return {"$schema": _DIALECT, **schema, "$defs": definitions, "title": "A study of remix_study"}


_METRIC: Schema = {
    "description": "a validation metric of a finished run (docs/metrics.md)",
    "anyOf": [{"enum": list(OBJECTIVES)}, {"type": "string", "pattern": "^(best|last|time)/"}],
}


def _plain(schema: Schema) -> Schema:
    """Pydantic's schema with short forms, without titles, which only repeat the keys, and with `name` for Remix."""
    schema = _without_titles(_renamed(schema))
    definitions = schema["$defs"]
    for name, definition in definitions.items():
        keys = definition.get("properties", {})
        if "share" in keys and "#/$defs/FixedShareConfig" in json.dumps(keys["share"]):  # `{audio: 0.2, video: 0.8}`
            keys["share"]["anyOf"].insert(0, copy.deepcopy(definitions["FixedShareConfig"]["properties"]["parts"]))
        if "phases" in keys:
            keys["phases"]["anyOf"].insert(0, {"enum": list(PRESETS)})
        if name == "RemixConfig":  # `name` has a default only in Python: in YAML it selects the type of the method
            definition["required"] = ["name"]
        if name == "ModelConfig":
            fusion = definition["properties"]["fusion"]
            fusion["anyOf"].insert(0, {"enum": words()})
        added = definition.get("properties", {}).get("with", {})
        if "$ref" in added:  # or a list of names, with the default options
            names = {"type": "array", "items": {"enum": list(Additions.model_fields)}, "uniqueItems": True}
            added["anyOf"] = [{"$ref": added.pop("$ref")}, names]
    return schema


def _renamed(schema: Schema) -> Schema:
    """The schema with the title of each kind of schedule as its name, in place of the one that pydantic makes up."""
    text = json.dumps(schema)
    for name, definition in schema["$defs"].items():
        if name.startswith("Schedule_"):
            text = text.replace(f'"{name}"', f'"{definition["title"]}"').replace(
                f'/{name}"', f'/{definition["title"]}"'
            )
    renamed: Schema = json.loads(text)
    return renamed


def _without_titles(schema: Any, inside: str = "") -> Any:
    """Also replaces `oneOf` by `anyOf`: a group without the key that selects its type may match several."""
    if isinstance(schema, list):
        return [_without_titles(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    names = inside in ("properties", "$defs")
    return {
        "anyOf" if key == "oneOf" and not names else key: _without_titles(value, "" if names else key)
        for key, value in schema.items()
        if names or key not in ("title", "discriminator")
    }


def _partial_run() -> tuple[Schema, Schema]:
    """The schema of a run in which all keys are optional at any depth, and the definitions that it refers to."""
    run = _plain(RunConfig.model_json_schema())

    def partial(schema: Any) -> Any:
        if isinstance(schema, list):
            return [partial(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        kept = {key: partial(value) for key, value in schema.items() if key != "required"}
        if isinstance(kept.get("$ref"), str):
            kept["$ref"] = kept["$ref"].replace("#/$defs/", "#/$defs/Partial")
        return kept

    parts = {f"Partial{name}": partial(definition) for name, definition in run.pop("$defs").items()}
    whole: Schema = partial(run)
    return whole, parts


# --- dotted paths ----------------------------------------------------------------------------------------------------


@cache
def _paths() -> Mapping[str, list[Schema]]:
    """Dotted path of a run -> the schemas of its value, one for each type of group that has such a key."""
    whole, parts = _partial_run()
    found: dict[str, list[Schema]] = {}
    for path, schema in _walk(whole, parts, ""):
        options = found.setdefault(path, [])
        if schema not in options:
            options.append(schema)
    return found


def _walk(schema: Schema, parts: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    for each in _options(schema, parts):
        for key, inner in each.get("properties", {}).items():
            at = f"{path}.{key}" if path else key
            yield at, inner
            yield from _walk(inner, parts, at)


def _options(schema: Schema, parts: Schema) -> list[Schema]:
    if "$ref" in schema:
        return [parts[_name(schema)]]
    if "anyOf" in schema:
        return [option for each in schema["anyOf"] for option in _options(each, parts)]
    return [schema]


def _open_patterns() -> list[str]:
    """Patterns of paths with the name of a modality (`model.encoders.audio.width`) or a place in a list of groups.

    Places count from 0: `method.phases.0.until`.
    """
    _, parts = _partial_run()
    lists = [
        f"^{re.escape(path)}\\.\\d+(\\.[^.]+)*$"
        for path, schemas in _paths().items()
        if not _is_settled(path) and any("$ref" in o.get("items", {}) for s in schemas for o in _options(s, parts))
    ]
    return lists + sorted(
        f"^{re.escape(path)}\\.[^.]+(\\.[^.]+)*$"
        for path, schemas in _paths().items()
        if not _is_settled(path) and any("patternProperties" in o for s in schemas for o in _options(s, parts))
    )


def _is_settled(path: str) -> bool:
    return any(path == each or path.startswith(f"{each}.") or each.startswith(f"{path}.") for each in SETTLED)


def _any(schemas: list[Schema]) -> Schema:
    return schemas[0] if len(schemas) == 1 else {"anyOf": copy.deepcopy(schemas)}


def _name(reference: Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _what(schema: Schema) -> Schema:
    return {"description": schema["description"]} if "description" in schema else {}
