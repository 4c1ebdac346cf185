"""Check a configuration against a corpus: every problem is found before a run starts

What a configuration says on its own is checked by `config/`. The checks here need the corpus: its splits, classes,
modalities and preset.
"""

from collections.abc import Sequence
from typing import get_args

import torch

from remix_study.assemble import split_rows
from remix_study.config import assignment as a
from remix_study.config import run as c
from remix_study.config.balancing import options_of
from remix_study.config.fusion import INSIDE, PUBLISHED, MMTMConfig
from remix_study.config.method import (
    Extensible,
    RemixConfig,
    UnimodalConfig,
    expanded,
    shares_head,
    teachers_of,
    trains_heads,
)
from remix_study.config.phases import SMPConfig
from remix_study.config.problems import Problem, steps_of
from remix_study.config.schedule import ends_of, positions, schedules_in, value_at
from remix_study.config.targets import Judge
from remix_study.config.yaml_source import dump
from remix_study.datasets.control import classes_without_control
from remix_study.datasets.truth import informative_NM
from remix_study.errors import ConfigError
from remix_study.media.presets import AudioPreset, FlowPreset, Part, VideoPreset
from remix_study.media.store import ClipStore
from remix_study.modality import canonical_order
from remix_study.names import is_modality, name_problem
from remix_study.networks import default_encoder, encoder_of, has_stages, layout_of, modalities_of, takes, widths_of
from remix_study.planned import leaves_joint, trains_jointly
from remix_study.remix import score_range

KeyedProblem = tuple[str, str]
"""The dotted key to change, empty for the store itself, and a sentence that names it"""


def require_fit(config: c.RunConfig, store: ClipStore) -> None:
    """Check that `config` can run on `store` and on this machine.

    Raises:
        ConfigError: lists every problem.
    """
    problems = fit_problems(config, store)
    if problems:
        listed = "\n".join(f"  - {each.text()}" for each in problems)
        raise ConfigError(f"the configuration does not fit {store.path}:\n{listed}")


def fit_problems(config: c.RunConfig, store: ClipStore) -> list[Problem]:
    """All problems of `config` with `store` and this machine; those of the store alone have no keys."""
    found = [
        *_store_problems(store), *_split_problems(config, store), *_method_problems(config, store),
        *_model_problems(config, store), *_augment_problems(config, store), *_target_problems(config, store),
    ]  # fmt: skip
    if config.device == "cuda" and not torch.cuda.is_available():
        found.append(("device", "`device: cuda` needs a GPU, but torch finds none; use `auto` or `cpu`"))
    return [Problem(steps_of(path) if path else (), said, complete=True, kind=path or said) for path, said in found]


def _store_problems(store: ClipStore) -> list[KeyedProblem]:
    return [
        ("", f"the modality{name_problem(m, dots=False)}; prepare the corpus again under another name")
        for m in store.modalities
        if not is_modality(m)
    ]


def _split_problems(config: c.RunConfig, store: ClipStore) -> list[KeyedProblem]:
    needed = ["train", "val", *(["test"] if config.evaluation.test else [])]
    problems = [("", f"the corpus must have a split `{split}`, but has {', '.join(store.splits)}") for split in needed
                if split not in store.splits]  # fmt: skip
    if problems:
        return problems
    for split in needed:
        present = set(store.labels_N[store.rows(split)].tolist())
        absent = [name for label, name in enumerate(store.classes) if label not in present]
        if absent:
            said = f"every class must occur in the split `{split}`, but {', '.join(absent)} does not; change the split"
            problems.append(("", said))
    if config.control and (said := _control_problem(config, store)):
        return [*problems, ("control_fraction", said)]
    samples = len(split_rows(config, store)["train"])
    if samples < config.smallest:
        said = f"`smallest_batch` must be at most the {samples} training clips, but is {config.smallest}"
        problems.append(("smallest_batch", said))
    return problems


def _control_problem(config: c.RunConfig, store: ClipStore) -> str:
    """Why the training split cannot be divided; empty if it can."""
    absent = classes_without_control(store)
    if not absent:
        return ""
    units = "groups" if any(store.groups[row] is not None for row in store.rows("train")) else "clips"
    have = "has" if len(absent) == 1 else "have"
    return (
        "every class must occur in the control split and among the other training clips (`control_fraction: "
        f"{config.control:g}`), but {', '.join(absent)} {have} too few {units} in the training split; add {units}, or "
        "exclude the class"
    )


def _method_problems(config: c.RunConfig, store: ClipStore) -> list[KeyedProblem]:
    method = config.method
    have = store.modalities
    if isinstance(method, UnimodalConfig):
        said = f"`method.modality` must be one of {', '.join(have)}, but is {method.modality}"
        return [] if method.modality in have else [("method.modality", said)]
    problems: list[KeyedProblem] = []
    whole = expanded(method)
    if not trains_heads(method) and config.evaluation.ceilings != "none":
        what = "predictions: dropout" if isinstance(method, RemixConfig) else method.name
        said = (
            f"`evaluation.ceilings` needs unimodal heads, which `{what}` does not train; use `joint_unimodal`, or "
            "leave it out"
        )
        problems.append(("evaluation.ceilings", said))
    if len(have) < 2:
        said = f"`{method.name}` needs at least two modalities, but the corpus has only {', '.join(have)}"
        problems.append(("method.name", said))
    for name in () if isinstance(whole, UnimodalConfig) else whole.added.names():
        wanted = options_of(name).modalities
        if wanted is not None and wanted != len(have):
            key = f"method.with.{name}" if isinstance(method, Extensible) else "method.name"
            said = f"`{name}` is for {wanted} modalities, but the corpus has {len(have)}: {', '.join(have)}"
            problems.append((key, said))
    pdmp = None if isinstance(whole, UnimodalConfig) else whole.added.pdmp
    if pdmp is not None and pdmp.dominant is not None and pdmp.dominant not in have:
        key = "method.with.pdmp.dominant" if isinstance(method, Extensible) else "method.dominant"
        problems.append((key, f"`{key}` must be one of {', '.join(have)}, but is {pdmp.dominant}"))
    if shares_head(method) and all(takes(encoder_of(config.model, m, store.preset.parts[m]), store.preset.parts[m])
                                     for m in have):  # fmt: skip
        widths = widths_of(config, store)
        if len(set(widths.values())) > 1:
            key = "method.with.mla" if isinstance(method, Extensible) else "method.name"
            sizes = ", ".join(f"{width} ({m})" for m, width in widths.items())
            said = (
                f"`mla` has one head for all modalities, so their features must have the same size, but have {sizes}; "
                "set the `width` of `model.encoders`"
            )
            problems.append((key, said))
    factors = config.learning_rate_factor
    if isinstance(factors, dict) and sorted(factors) != sorted(have):
        said = f"`learning_rate_factor` must name {', '.join(have)} once each"
        problems.append(("learning_rate_factor", said))
    for key in ("warmup_weight", "weight"):
        weights = getattr(method, key, None)
        if isinstance(weights, dict) and sorted(weights) != sorted(have):
            problems.append((f"method.{key}", f"`method.{key}` must name {', '.join(have)} once each"))
    teachers = teachers_of(method)
    if isinstance(teachers, dict) and sorted(teachers) != sorted(have):
        key = "method.with.umt.teachers" if isinstance(method, Extensible) else "method.teachers"
        said = f"`{key}` must name a run for each of {', '.join(have)}, but names {', '.join(teachers) or 'none'}"
        problems.append((key, said))
    if isinstance(method, RemixConfig):
        if method.training_order is not None and sorted(method.training_order) != sorted(have):
            said = f"`method.training_order` must name {', '.join(have)} once each"
            problems.append(("method.training_order", said))
        problems += _assignment_problems(method, store, have)
        problems += _phase_problems(method, store)
    return problems


def _phase_problems(method: RemixConfig, store: ClipStore) -> list[KeyedProblem]:
    have = store.modalities
    if any(path.startswith("warmup_weight") for path, _ in schedules_in(method)) and not trains_jointly(method):
        said = (
            "`method.warmup_weight` must be a number, because no sample trains several modalities after the warm-up, "
            "when a schedule begins"
        )
        return [("method.warmup_weight", said)]
    if isinstance(method.phases, SMPConfig):
        if method.phases.order is not None and sorted(method.phases.order) != sorted(have):
            said = f"`method.phases.order` must name {', '.join(have)} once each"
            return [("method.phases.order", said)]
        return []
    problems: list[KeyedProblem] = []
    for number, phase in enumerate(method.phases or ()):
        key = f"method.phases.{number}"
        strange = [m for m in phase.only or () if m not in have]
        if strange:
            said = f"`only` of phase {number + 1} names {strange[0]}, but the corpus has {', '.join(have)}"
            problems.append((f"{key}.only", said))
        for name in ("warmup_weight", "weight"):
            weights = getattr(phase, name)
            if isinstance(weights, dict) and sorted(weights) != sorted(have):
                said = f"`{name}` of phase {number + 1} must name {', '.join(have)} once each"
                problems.append((f"{key}.{name}", said))
        if phase.warmup_weight is not None and not leaves_joint(method, phase):
            said = f"`warmup_weight` has no effect in phase {number + 1}, in which no sample trains several modalities"
            problems.append((f"{key}.warmup_weight", f"{said}; leave it out"))
        if len(phase.only or ()) > 1 and leaves_joint(method, phase.model_copy(update={"only": None})):
            said = (
                f"`only` of phase {number + 1} names several modalities, but the filter or `joint_share` lets samples "
                "train all modalities together; use another filter, `otherwise: rest` or `joint_share: 0`"
            )
            problems.append((f"{key}.only", said))
        if len(phase.only or ()) > 1 and phase.share is None and _is_without_samples(method.share, phase.only or ()):
            named = " and ".join(phase.only or ())
            said = (
                f"`only` of phase {number + 1} names {named}, to which `method.share` gives no samples; give the phase "
                "a `share` of its own"
            )
            problems.append((f"{key}.only", said))
        own = {name: value for name in ("filter", "share") if (value := getattr(phase, name)) is not None}
        if own:
            without = {"filter": a.ArgminConfig(), "share": None}
            found = _assignment_problems(method.model_copy(update=without | own), store, phase.only or have)
            at = f"method.phases[{number}]"
            problems += [(path.replace("method", key, 1), said.replace("`method.", f"`{at}.")) for path, said in found]
    return problems


def _is_without_samples(share: a.ShareConfig | None, modalities: Sequence[str]) -> bool:
    """Whether the parts of a fixed share leave nothing for all of `modalities`, at some position of its schedules."""
    if not isinstance(share, a.FixedShareConfig):
        return False
    found = [share.at(each) for each in positions(*(part for part in share.parts.values() if part != "rest"))]
    return any(sum(parts.get(m, 0.0) for m in modalities) < 1e-6 for parts in found)


def _assignment_problems(method: RemixConfig, store: ClipStore, have: Sequence[str]) -> list[KeyedProblem]:
    """Problems of the filter and the share of a method, or of one of its phases, with the modalities `have`."""
    problems: list[KeyedProblem] = []
    if isinstance(method.share, a.FixedShareConfig) and sorted(method.share.parts) != sorted(have):
        problems.append(("method.share", f"`method.share` must name {', '.join(have)} once each"))
    lowest = getattr(method.share, "lowest", None)
    if lowest is not None and lowest * len(have) >= 1:
        said = f"`method.share.lowest` must be below 1/{len(have)}, but is {lowest:g}"
        problems.append(("method.share.lowest", said))
    return problems + _threshold_problems(method, len(store.classes), len(have))


def _threshold_problems(method: RemixConfig, classes: int, modalities: int) -> list[KeyedProblem]:
    low, high = score_range(method.score, classes)
    span = f"the score `{method.score}` is in [{low:.3g}, {high:.3g}] for {classes} classes"
    match method.filter:
        case a.MarginConfig(threshold=threshold) if (most := max(ends_of(threshold))) > high - low:
            said = f"`method.filter.threshold` must be at most {high - low:.3g}, but is {most:g}: {span}"
            return [("method.filter.threshold", said)]
        case a.BandConfig(lower=lower, upper=upper):
            for at in positions(lower, upper):
                least, most = value_at(lower, at), value_at(upper, at)
                if most <= low or least >= high:
                    said = f"`method.filter` must include possible scores, but [{least:g}, {most:g}] does not: {span}"
                    return [("method.filter.upper" if most <= low else "method.filter.lower", said)]
            return []
        case a.MaxShareConfig(share=share) if (least := min(ends_of(share))) * modalities < 1:
            said = f"`method.filter.share` must be at least 1/{modalities}, so that all samples fit, but is {least:g}"
            return [("method.filter.share", said)]
        case a.MaxShareConfig(share=share) if (
            (most := max(ends_of(share))) * modalities <= 1 + 1e-9
            and method.share is not None
            and method.share.reads_control
        ):
            said = (
                f"`method.share` has no effect with `filter: {{rule: max_share, share: {most:g}}}`, which gives every "
                "modality the same number of samples; use a greater `filter.share`, or another filter such as random"
            )
            return [("method.share", said)]
        case _:
            return []


def _augment_problems(config: c.RunConfig, store: ClipStore) -> list[KeyedProblem]:
    """Every transform needs a modality of the corpus, not of the run: unimodal runs share a study's settings."""
    augment, parts = config.augment, [store.preset.parts[m] for m in store.modalities]
    pictures = any(isinstance(part, VideoPreset | FlowPreset) for part in parts)
    sounds = any(isinstance(part, AudioPreset) for part in parts)
    needs = {
        "crop": (augment.crop, any(isinstance(part, VideoPreset) for part in parts), "video"),
        "flip": (augment.flip, pictures, "video or flow"),
        "time_mask": (augment.time_mask > 0, sounds, "spectrograms"),
        "frequency_mask": (augment.frequency_mask > 0, sounds, "spectrograms"),
        "shift": (augment.shift > 0, sounds, "spectrograms"),
    }
    kinds = {m: store.preset.parts[m].kind for m in store.modalities}
    have = ", ".join(m if m == kind else f"{m} ({kind})" for m, kind in kinds.items())
    problems = [
        (f"augment.{name}", f"`augment.{name}` is for {of}, but the corpus has {have}; leave it out")
        for name, (asked, there, of) in needs.items()
        if asked and not there
    ]
    for part in parts:
        if isinstance(part, AudioPreset):
            problems += _mask_problems(augment, part)
    if augment.frames == "random" and not any(isinstance(p, VideoPreset) and p.candidates > 1 for p in parts):
        said = (
            "`augment.frames: random` needs several frames per segment, but the store has one; prepare the corpus with "
            "a preset such as 3x224r, or leave the option out"
        )
        problems.append(("augment.frames", said))
    return problems


def _mask_problems(augment: c.AugmentConfig, part: AudioPreset) -> list[KeyedProblem]:
    frames, bands = part.shape[part.time_axis], part.shape[1 - part.time_axis]
    masks = (
        ("time_mask", augment.time_mask, frames, "frames"),
        ("frequency_mask", augment.frequency_mask, bands, "bands"),
    )
    return [
        (
            f"augment.{name}",
            f"`augment.{name}` must be below the {there} {of} of a spectrogram, but is {most}, or it could hide "
            "everything",
        )
        for name, most, there, of in masks
        if most >= there
    ]


def _target_problems(config: c.RunConfig, store: ClipStore) -> list[KeyedProblem]:
    if config.targets is None or config.targets.of != "truth":
        return []
    modalities = [m for m in modalities_of(config, store) if m in store.modalities]
    if "train" not in store.splits or informative_NM(store, store.rows("train"), modalities) is not None:
        return []
    detectors = [judge for judge in get_args(Judge) if judge != "truth"]
    said = (
        "`targets.of: truth` needs a corpus that says which clips are informative, as those of `prepare synthetic` do; "
        f"use a detector: {' or '.join(detectors)}"
    )
    return [("targets.of", said)]


def _model_problems(config: c.RunConfig, store: ClipStore) -> list[KeyedProblem]:
    problems = [
        (f"model.encoders.{m}", f"`model.encoders` names {m}, but the corpus has {', '.join(store.modalities)}")
        for m in canonical_order(config.model.encoders)
        if m not in store.modalities
    ]
    problems += [
        (
            f"model.encoders.{m}" if m in config.model.encoders else "model.encoder",
            f"the encoder of {m} must take {_expected(part)}, but `{encoder.name}` does not; "
            f"use `model.encoders: {{{m}: {{name: {default_encoder(part).name}}}}}`",
        )
        for m in modalities_of(config, store)
        if m in store.modalities
        for part in (store.preset.parts[m],)
        for encoder in (encoder_of(config.model, m, part),)
        if not takes(encoder, part)
    ]
    if isinstance(config.evaluation.ceilings, dict):
        problems += [
            (
                f"evaluation.ceilings.{m}",
                f"`evaluation.ceilings` names {m}, but the corpus has {', '.join(store.modalities)}",
            )
            for m in canonical_order(config.evaluation.ceilings)
            if m not in store.modalities
        ]
    fusion = config.model.fusion.name
    if fusion in INSIDE and not isinstance(config.method, UnimodalConfig):
        problems += _inside_problems(config, store)
    greedy = isinstance(config.model.fusion, MMTMConfig) and config.model.fusion.greedy is not None
    if greedy and len(store.modalities) != 2 and not isinstance(config.method, UnimodalConfig):
        said = f"`model.fusion.greedy` needs two modalities, but the corpus has {len(store.modalities)}; leave it out"
        problems.append(("model.fusion.greedy", said))
    pairs = fusion in ("film", *PUBLISHED)
    if pairs and len(store.modalities) != 2 and not isinstance(config.method, UnimodalConfig):
        said = f"`model.fusion: {fusion}` needs two modalities, but the corpus has {len(store.modalities)}"
        problems.append(("model.fusion", said))
    return problems


def _inside_problems(config: c.RunConfig, store: ClipStore) -> list[KeyedProblem]:
    """Problems of a fusion inside the encoders, which needs encoders with stages."""
    fusion = config.model.fusion.name
    encoders = {m: encoder_of(config.model, m, store.preset.parts[m]) for m in store.modalities}
    without = [f"that of {m} is `{each.name}`" for m, each in encoders.items() if not has_stages(each)]
    if without:
        said = (
            f"`model.fusion: {fusion}` needs encoders with stages (tiny, resnet18), but {', '.join(without)}; use "
            "another fusion"
        )
        return [("model.fusion", said)]
    if fusion == "centralnet" and len({each.model_dump_json() for each in encoders.values()}) > 1:
        have = ", ".join(f"{m} has {dump(each.model_dump(), flow=True).strip()}" for m, each in encoders.items())
        said = (
            f"`model.fusion: centralnet` adds the feature maps of all modalities, so that their encoders must be the "
            f"same, but {have}; set one `model.encoder`"
        )
        return [("model.fusion", said)]
    return []


def _expected(part: Part) -> str:
    match layout_of(part):
        case "vector":
            return "a vector of values"
        case "sequence":
            return "a sequence of vectors"
        case "image":
            return "pictures" if isinstance(part, VideoPreset | FlowPreset) else "spectrograms"
