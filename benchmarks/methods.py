"""(g) Training with an added method vs joint training with unimodal losses: the time of an epoch's steps"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.epochs import Scale, joint, new_model, noise_store, trainer
from benchmarks.measure import Result, in_turns, median
from remix_study.added import Facts, plan_of, rules_of
from remix_study.balancing import CrossEntropy, FusedLoss, Method, UnimodalLosses
from remix_study.config.balancing import Additions, Windowed, options_of
from remix_study.media.store import ClipStore
from remix_study.models import ConcatFusion, EntropyFusion
from remix_study.remix import ConstantPlan

AT_MOST: dict[str, float | None] = {
    "umt": 1.4,
    "mmpareto": 1.75,
    "ogm": 1.1,
    "ogm_ge": 1.1,
    "ogm_plus": 1.1,
    "agm": 1.1,
    "dgl": 1.1,
    "relearning": 1.1,
    "miles": 1.1,
    "gblend": 1.1,
    "aug": 1.1,
    "pmr": 1.1,
    "gblend_lite": 1.1,
    "modality_dropout": 1.1,
    "smv": None,  # a plan only: its steps are those of joint training, but there are more of them
    "mla": 1.3,
    "opm": 1.1,
    "inforeg": 1.1,
    "pdmp": 1.1,
    "tcmax": 1.1,
    "reconboost": 1.1,
}


def measure(quick: bool) -> Iterator[Result]:
    scale = Scale.of(quick)
    with tempfile.TemporaryDirectory() as folder:
        store = noise_store(Path(folder), scale.samples, scale.preset)
        methods = {"joint_unimodal": _method(store, scale.batch, [])}
        methods |= {name: _method(store, scale.batch, [name]) for name in Additions.model_fields}
        trainers = [
            trainer(store, method, scale.batch, fusion=EntropyFusion if name == "mla" else ConcatFusion)
            for name, method in methods.items()
        ]
        rounds = in_turns([each.epoch for each in trainers], scale.rounds)
    for number, name in enumerate(methods):
        if number > 0:
            ratio = median([times[number].train_s / times[0].train_s for times in rounds])
            yield Result(f"(g) steps with {name} / joint_unimodal", ratio, at_most=AT_MOST[name])


def _method(store: ClipStore, batch: int, names: list[str]) -> Method:
    base = joint(store, batch)
    # From the first epoch on, or a method with a window would not act in this one.
    begin = {name: {"begin": 0} if issubclass(options_of(name), Windowed) else {} for name in names}
    added = Additions.model_validate(begin)
    teachers = dict(new_model(store).to(memory_format=torch.channels_last).encoders.items())
    facts = Facts(store.modalities, 0, 1, store.rows("train"), store.labels_N, len(store.classes), CrossEntropy(),
                  lambda: new_model(store), lambda _: base.plan, teachers=teachers)  # fmt: skip
    rules = (FusedLoss(), UnimodalLosses(1.0, 1.0), *rules_of(added, facts))
    assert isinstance(base.plan, ConstantPlan)
    plan = plan_of(added, base.plan, facts)
    return replace(base, name="joint_unimodal", plan=plan, rules=rules, trains_heads=True)
