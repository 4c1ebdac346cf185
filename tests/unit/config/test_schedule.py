"""Schedules and phases in a configuration: values over positions, short forms, and problems with their keys"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remix_study.config.assignment import FixedShareConfig
from remix_study.config.identity import identity
from remix_study.config.load import parse_run, put
from remix_study.config.phases import PhaseConfig, SMPConfig, spans
from remix_study.config.problems import parse
from remix_study.config.run import RunConfig
from remix_study.config.schedule import Schedule, position_of, value_at
from remix_study.config.yaml_source import read_text
from remix_study.errors import ConfigError

NUMBERS = st.floats(-1e6, 1e6)
POSITIONS = st.floats(0, 1)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule[float]:
    begin, end = sorted(draw(st.lists(POSITIONS, min_size=2, max_size=2, unique=True)))
    shape = draw(st.sampled_from(["linear", "cosine", "step"]))
    content = {"from": draw(NUMBERS), "to": draw(NUMBERS), "shape": shape, "begin": begin, "end": end}
    return Schedule[float].model_validate(content)


def a_run(method: Any, **others: Any) -> RunConfig:
    return parse_run({"corpus": "c", "method": method, **others}, "the test")


def problems_of(method: str) -> list[str]:
    lines = "\n".join(f"  {line}" for line in method.splitlines())
    with pytest.raises(ConfigError) as raised:
        parse(RunConfig, read_text(f"corpus: c\nmethod:\n  name: remix\n{lines}\n", "run.yaml"))
    return [line.removeprefix("  - run.yaml:") for line in str(raised.value).splitlines()[1:]]


@given(schedules(), POSITIONS, POSITIONS)
def test_a_schedule_is_monotone_between_exact_ends(schedule: Schedule[float], one: float, other: float) -> None:
    assert value_at(schedule, 0.0) == value_at(schedule, schedule.begin) == schedule.start
    assert value_at(schedule, 1.0) == value_at(schedule, schedule.end) == schedule.to
    first, second = (value_at(schedule, position) for position in sorted((one, other)))
    inside = sorted((schedule.start, first, second, schedule.to))
    assert inside in ([schedule.start, first, second, schedule.to], [schedule.to, second, first, schedule.start])


@pytest.mark.parametrize("shape", ["linear", "cosine", "step"])
def test_all_shapes_are_halfway_in_the_middle(shape: str) -> None:
    content = {"from": 1.0, "to": 0.0, "shape": shape, "begin": 0.2, "end": 0.8}
    schedule = Schedule[float].model_validate(content)
    pairs = [(value_at(schedule, 0.5 - gap), value_at(schedule, 0.5 + gap)) for gap in (0.01, 0.1, 0.2, 0.3, 0.5)]
    assert all(one + other == pytest.approx(1.0) for one, other in pairs)


@pytest.mark.parametrize(("begin", "end"), [(0.0, 1.0), (0.2, 0.8), (0.1, 0.9), (0.3, 0.7)])
@pytest.mark.parametrize("epochs", [3, 11, 21, 101])
def test_a_step_changes_in_the_middle_of_the_epochs_whatever_the_rounding(
    begin: float, end: float, epochs: int
) -> None:
    schedule = Schedule[float].model_validate({"from": 1.0, "to": 0.0, "shape": "step", "begin": begin, "end": end})
    values = [value_at(schedule, position_of(epoch, 0, epochs)) for epoch in range(epochs)]
    assert values == [1.0] * (epochs // 2) + [0.0] * (epochs - epochs // 2)


def test_steps_are_compared_between_and_at_their_changes() -> None:
    """Two steps that change at almost the same position contradict each other between the two."""
    audio = {"from": 0.2, "to": 0.8, "shape": "step", "begin": 0.0, "end": 0.501}
    parts = {"audio": audio, "video": {"from": 0.8, "to": 0.2, "shape": "step", "begin": 0.0, "end": 0.509}}
    with pytest.raises(ConfigError, match=r"its parts must sum to 1, but sum to 1\.6 at position 0\.25"):
        a_run({"name": "remix", "share": parts})
    same = {"audio": audio | {"begin": 0.2, "end": 0.8}, "video": {"from": 0.8, "to": 0.2, "shape": "step"}}
    a_run({"name": "remix", "share": same})


@given(st.integers(0, 50), st.integers(1, 50))
def test_positions_go_from_0_to_1_over_the_epochs_after_the_warm_up(first: int, count: int) -> None:
    found = [position_of(epoch, first, first + count) for epoch in range(first + count)]
    assert found == sorted(found)
    assert found[: first + 1] == [0.0] * (first + 1)
    assert found[-1] == (0.0 if count == 1 else 1.0)


def test_a_short_share_is_a_fixed_share() -> None:
    short = a_run({"name": "remix", "share": {"audio": 0.2, "video": 0.8}})
    whole = a_run({"name": "remix", "share": {"kind": "fixed", "parts": {"audio": 0.2, "video": 0.8}}})
    assert short.digest("") == whole.digest("")


@given(POSITIONS, POSITIONS)
def test_shares_sum_to_1_at_every_position(start: float, position: float) -> None:
    parts = {"audio": {"from": start, "to": 1 - start, "shape": "cosine"}, "video": "rest"}
    share = FixedShareConfig.model_validate({"kind": "fixed", "parts": parts})
    assert sum(share.at(position).values()) == pytest.approx(1.0)


def test_new_keys_leave_the_identity_of_old_configurations() -> None:
    content = identity(a_run({"name": "remix"}), exclude=set())
    assert "learning_rate_factor" not in content
    assert "phases" not in content["method"]
    assert a_run({"name": "remix", "phases": "paper"}).digest("") == a_run({"name": "remix"}).digest("")


@pytest.mark.parametrize(
    "method",
    [
        {"name": "remix", "phases": "smp"},
        {"name": "remix", "phases": {"preset": "smp", "order": ["video", "audio"], "alone": 0.4}},
        {"name": "remix", "phases": [{"until": 0.3, "share": {"audio": 0.2, "video": 0.8}}, {"joint": True}]},
        {"name": "joint_unimodal", "weight": {"audio": {"from": 1, "to": 0}, "video": 1}},
    ],
)
def test_schedules_and_phases_survive_a_dump(method: dict[str, Any]) -> None:
    config = a_run(method)
    assert a_run(config.model_dump(mode="json")["method"]) == config


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("weight: {from: -1}", ["4: `method.weight.from` must be at least 0, but is -1",
                                "4: `method.weight.to` is missing"]),
        ("weight: {a: {from: 1, to: 0, shape: cosin}, b: 1}",
         ["4: `method.weight.a.shape` must be one of linear, cosine, step, but is 'cosin'; did you mean `cosine`?"]),
        ("joint_share: {from: 0, to: 1}", ["4: `method.joint_share.to` must be below 1, but is 1"]),
        ("filter:\n  rule: margin\n  threshold: {from: 1, to: 0, begin: 0.8, end: 0.2}",
         ["6: `method.filter.threshold`: `begin` must be below `end` (0.2), but is 0.8"]),
        ("filter: {rule: band, lower: {from: 0, to: 1}, upper: {from: 2, to: 0.5}}",
         ["4: `method.filter`: `lower` must be below `upper`, but 0.8 is not below 0.8"]),
        ("filter: {rule: tempered, temperature: {from: .inf, to: 0}}",
         ["4: `method.filter.temperature.from` must be a finite number, but is .inf"]),
        ("share:\n  audio: 2\n  video: 0.9", ["5: `method.share.audio` must be at most 1, but is 2"]),
        ("share: {audio: 0.3, video: 0.8}", ["4: `method.share`: its parts must sum to 1, but sum to 1.1"]),
        ("share: {audio: rest, video: rest}", ["4: `method.share`: only one of its parts may be `rest`"]),
        ("share: {audio: {from: 0, to: 1}, video: {from: 1, to: 0, shape: cosine}}",
         ["4: `method.share`: its parts must sum to 1, but sum to 1.00494 at position 0.005 of the schedules"]),
        ("phases: smpp", ["4: `method.phases` must be one of paper, smp, but is 'smpp'; did you mean `smp`?"]),
        ("phases:\n  - {until: 0.5, only: [audio]}\n  - {until: 0.3, only: [video]}\n  - {joint: true}",
         ["6: `until` of phase 2 of `phases` must be above that of the phase before it (0.5), but is 0.3"]),
        ("phases:\n  - {joint: true}\n  - {until: 0.8}",
         ["5: phase 1 of `phases` needs an `until`, the fraction of the epochs at which the next begins",
          "6: phase 2 of `phases` is the last one and lasts to the end of the training, so it must have no `until`, "
          "but has 0.8; leave it out, or add a phase"]),
        ("phases:\n  - {until: 0.5, joint: true, weight: 2}\n  - {share: {audio: 0.2, video: 0.9}}",
         ["5: `method.phases[0]`: `weight` has no effect with `joint: true`, with which all samples train all "
          "modalities; leave one of them out",
          "6: `method.phases[1].share`: its parts must sum to 1, but sum to 1.1"]),
        ("phases: {preset: smp, aloen: 1}", ["4: `method.phases.aloen` is not a known key; did you mean `alone`?"]),
        ("phases:\n  - {until: 0.5, filter: {rule: random, within: class}}\n  - {joint: true}",
         ["5: `method.phases.0.filter.within: class` gives every class the shares of the whole, so it needs "
          "`method.phases.0.share`, but there is none; set it, or use `within: all`"]),
        ("phases: []", ["4: `method.phases`: must name at least one phase; leave it out, or use `paper` for none"]),
        ("warmup: 0\nphases: smp",
         ["5: `method.phases: smp` ranks the modalities at the end of the warm-up, but `method.warmup` is 0; set "
          "`method.phases.order`, or a warm-up"]),
        ("phases: smp\nshare: {audio: 0.5, video: 0.5}",
         ["5: `method.share` has no effect, because no phase of `method.phases` uses it; leave it out"]),
    ],
)  # fmt: skip
def test_a_problem_names_the_line_and_the_key(method: str, wanted: list[str]) -> None:
    assert problems_of(method) == wanted


@given(st.lists(st.floats(0.01, 0.99), max_size=6, unique=True), st.integers(0, 5), st.integers(1, 40))
def test_phases_cover_every_epoch_after_the_warm_up_once(until: list[float], warmup: int, count: int) -> None:
    phases = [*(PhaseConfig(until=each) for each in sorted(until)), PhaseConfig()]
    covered = [e for _, first, end in spans(phases, warmup, warmup + count) for e in range(first, end)]
    assert covered == list(range(warmup, warmup + count))


def test_smp_trains_the_weakest_first_and_all_last() -> None:
    phases = SMPConfig(preset="smp", alone=0.6).phases(["text", "audio", "video"])
    assert [phase.only for phase in phases] == [("text",), ("audio",), ("video",), None]
    assert [phase.until for phase in phases] == pytest.approx([0.2, 0.4, 0.6, None])
    assert [phase.joint for phase in phases] == [False, False, False, True]


def test_dotted_paths_reach_into_schedules_presets_and_phases() -> None:
    content: dict[str, Any] = {"weight": {"from": 1, "to": 0}, "phases": [{"until": 0.3}, {}]}
    put(content, "weight.from", 2)
    put(content, "phases.0.until", 0.5)
    assert content == {"weight": {"from": 2, "to": 0}, "phases": [{"until": 0.5}, {}]}
    put(content, "phases", "smp")
    put(content, "phases.alone", 0.2)
    assert content["phases"] == {"preset": "smp", "alone": 0.2}
    with pytest.raises(ConfigError, match="must be a place in a list of 1, from 0"):
        put({"phases": [{}]}, "phases.2.until", 1)
