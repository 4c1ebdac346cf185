"""A look at a corpus before anything is written: what would a preparation meet, and what would come of it?

    look        every file is opened and read through without decoding, once; its checksum finds duplicates
    sample      some clips, spread over splits and classes, are decoded as a preparation would
    judge       what must be mended, what should be known, what a preparation would cost

Sizes and times are estimates, and so is the part of unusable clips, unless all were decoded.
"""

# N clips

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remix_study.datasets.corpus import Found
from remix_study.datasets.manifest import SPLITS
from remix_study.errors import MediaError, RemixStudyError
from remix_study.media.build import DecodeRow, PackedClips
from remix_study.media.checks import Checks, check_file
from remix_study.media.container import Container, probe
from remix_study.media.decoders import DecoderName, decoder_version
from remix_study.media.features import open_array
from remix_study.media.images import frame_files, is_image
from remix_study.media.partial import RowStatus
from remix_study.media.plan import Progress
from remix_study.media.presets import AudioPreset, FeaturePreset, FlowPreset, Part, Preset, VideoPreset
from remix_study.media.shards import Layout, rows_per_shard
from remix_study.media.source import Source, row_of
from remix_study.media.workers import available_cores, run_jobs
from remix_study.sample import Clip

LARGEST_IMBALANCE = 10.0
_NAMED = 5  # in a sentence

Why = tuple[str, str]
"""The word of a quarantine, such as `missing`, and a sentence"""


@dataclass(frozen=True)
class Spread:
    """Smallest, median and greatest."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Bad:
    """A clip that cannot be used, and why: the word of a quarantine, and what it means."""

    id: str
    label: str
    stage: str
    message: str


@dataclass(frozen=True)
class CheckReport:
    """What was seen. `problems` must be mended before a preparation; `warnings` should be known.

    `clips_by_split_and_class` and `groups_by_split` are counts. `durations`: seconds of the clips' `audio` and `video`,
    and the `gap` between the two. `sizes` (W x H, of decoded clips), `frame_rates` and `sample_rates`: the five most
    frequent, with counts. `bad`: unusable clips, among all that were looked at and the `decoded` that were decoded;
    `bad_fraction`: the part of all clips that would be, estimated. `leaking`: groups in more than one split.
    `duplicates`: ids of clips with the same content, of which `crossing` lie in several splits. `imbalance`: clips of
    the largest class by those of the smallest. `bytes` of the store, and `seconds` that `cores` cores would need for
    it; None where nothing could be decoded.
    """

    name: str
    clips: int
    clips_by_split_and_class: Mapping[str, Mapping[str, int]]
    groups_by_split: Mapping[str, int]
    absent_by_class: Mapping[str, int]
    durations: Mapping[str, Spread]
    sizes: Mapping[str, int]
    frame_rates: Mapping[str, int]
    sample_rates: Mapping[str, int]
    bad: tuple[Bad, ...]
    bad_fraction: float
    decoded: int
    leaking: tuple[str, ...]
    duplicates: tuple[tuple[str, ...], ...]
    crossing: int
    imbalance: float
    bytes: int
    seconds: float | None
    cores: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def bad_by_reason(self) -> dict[str, int]:
        return dict(collections.Counter(bad.stage for bad in self.bad).most_common())

    @property
    def bad_by_class(self) -> dict[str, int]:
        return dict(sorted(collections.Counter(bad.label for bad in self.bad).items()))

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        counts = {"bad_by_reason": self.bad_by_reason, "bad_by_class": self.bad_by_class}
        return {**dataclasses.asdict(self), **counts}


def check_clips(
    name: str,
    found: Found,
    source: Source,
    preset: Preset,
    *,
    decoder: DecoderName = "pyav",
    checks: Checks | None = None,
    sample: int = 100,
    max_bad: float = 0.01,
    workers: int | None = None,
    timeout_s: float = 60.0,
    progress: Callable[[str], Progress] | None = None,
) -> CheckReport:
    """Look at all clips and decode `sample` of them; writes nothing.

    `progress(title)` gives a callback (done, total).

    Raises:
        StoreError: the decoder is not installed as it must be, or worker processes cannot be started.
    """
    decoder_version(decoder)
    clips, say = found.clips, progress or (lambda _title: lambda _done, _total: None)
    looks = _look(clips, source, preset, workers, timeout_s, say("opening files"))
    lost = {row: why for row, clip in enumerate(clips) if (why := _why_unusable(clip, preset, looks)) is not None}
    good = [row for row in range(len(clips)) if row not in lost]
    chosen = spread(clips, good, sample)
    work = DecodeRow(PackedClips.of([clips[row] for row in chosen]), source, preset, decoder, checks or Checks(), {})
    decoded = _decode(work, len(chosen), workers, timeout_s, say("decoding a sample"))
    failed = {chosen[job]: seen.why for job, seen in decoded.items() if seen.why is not None}
    cores = workers or available_cores()
    duplicates = _duplicates(clips, looks, preset)
    split_of = {str(clip.id): clip.split for clip in clips}
    counts = collections.Counter((clip.split, clip.label) for clip in clips)
    of_class = collections.Counter(clip.label for clip in clips)
    report = CheckReport(
        name=name,
        clips=len(clips),
        clips_by_split_and_class={
            split: {label: counts[split, label] for label in sorted(of_class)}
            for split in SPLITS
            if any(counts[split, label] for label in of_class)
        },
        groups_by_split=_groups(clips),
        absent_by_class=dict(sorted(collections.Counter(found.absent.values()).items())),
        durations=_durations(clips, preset, looks),
        sizes=_most(seen.size for seen in decoded.values()),
        frame_rates=_most(look.frame_rate for look in looks.values()),
        sample_rates=_most(look.sample_rate for look in looks.values()),
        bad=tuple(Bad(str(clips[row].id), clips[row].label, *why) for row, why in sorted({**lost, **failed}.items())),
        bad_fraction=_bad_fraction(len(clips), len(lost), len(chosen), len(failed)),
        decoded=len(chosen),
        leaking=_leaking(clips),
        duplicates=duplicates,
        crossing=sum(len({split_of[each] for each in ids}) > 1 for ids in duplicates),
        imbalance=max(of_class.values()) / min(of_class.values()) if of_class else 1.0,
        bytes=_bytes(preset, len(clips)),
        seconds=_seconds(looks, decoded, len(clips), cores),
        cores=cores,
        problems=(),
        warnings=(),
    )
    return dataclasses.replace(
        report,
        problems=(*_without_paths(clips, preset), *_problems(report, max_bad, split_of)),
        warnings=(*found.warnings, *_warnings(report, {str(clip.id): clip.label for clip in clips})),
    )


# --- look ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """What was seen of one file without decoding it.

    `content`: bytes and digest. `why[modality]`: why it cannot be used for this one. `audio_s` and `video_s`: where its
    tracks end. `rows`: of an array. `seconds`: how long its checksum took.
    """

    content: tuple[int, str] | None
    why: Mapping[str, Why]
    seconds: float
    audio_s: float | None = None
    video_s: float | None = None
    frame_rate: str | None = None
    sample_rate: str | None = None
    rows: int | None = None


@dataclass(frozen=True)
class _LookAt:
    """The work of a worker process: look at file `job`, for the modalities that it is used for."""

    files: Sequence[tuple[str, frozenset[str]]]
    source: Source
    preset: Preset

    def __call__(self, job: int) -> Probe:
        name, modalities = self.files[job]
        started = time.perf_counter()
        content = self.source.identity(name)
        seconds = time.perf_counter() - started
        seen: dict[str, Any] = {}
        why: dict[str, Why] = {}
        with self.source.local(name) as path:
            for m in sorted(modalities):
                try:
                    seen |= _seen(path, self.preset.parts[m])
                except MediaError as error:
                    why[m] = error.stage, str(error)
                except RemixStudyError:  # no fault of the file: a source does not answer
                    raise
                except Exception as error:  # whatever a damaged file provokes must not stop the others
                    why[m] = "open", f"it cannot be read ({type(error).__name__})"
        return Probe(content, why, seconds, **seen)


def _seen(path: Path, part: Part) -> dict[str, Any]:
    """
    Raises:
        MediaError: the file cannot be used for this part of a preset.
    """
    match part:
        case FeaturePreset():
            shape = open_array(path).shape
            return {"rows": shape[0] if shape else 0}
        case FlowPreset(source="given"):
            if not path.is_dir():
                raise MediaError("there is no such folder of flow", stage="missing")
        case VideoPreset() if path.is_dir():
            frame_files(path)
        case VideoPreset() if is_image(path):
            check_file(path)
        case AudioPreset():
            return _heard(probe(path))
        case _:
            return _shown(probe(path))
    return {}


def _heard(container: Container) -> dict[str, Any]:
    if container.audio_rate is None:
        raise MediaError("it has no audio track", stage="audio")
    return {"audio_s": container.audio_end_s, "sample_rate": f"{container.audio_rate} Hz"}


def _shown(container: Container) -> dict[str, Any]:
    times_F = container.frame_times_F
    if times_F is None:
        raise MediaError("it has no video track", stage="video")
    if not len(times_F):
        raise MediaError("it can show no frame", stage="frames")
    lasts = container.video_end_s - float(times_F[0])
    rate = {"frame_rate": f"{len(times_F) / lasts:.3g} / s"} if lasts > 0 else {}
    return {"video_s": container.video_end_s, **rate}


def _look(
    clips: Sequence[Clip], source: Source, preset: Preset, workers: int | None, timeout_s: float, progress: Progress
) -> dict[str, Probe]:
    """File -> what was seen. Many clips may lie in one file: it is looked at once."""
    used: dict[str, set[str]] = collections.defaultdict(set)
    for clip in clips:
        for m, path in _paths(clip, preset):
            used[row_of(path)[0]].add(m)
    files = [(name, frozenset(modalities)) for name, modalities in sorted(used.items())]
    looks: dict[str, Probe] = {}

    def record(job: int, look: Probe) -> None:
        looks[files[job][0]] = look
        progress(len(looks), len(files))

    def on_result(job: int, look: object) -> None:
        assert isinstance(look, Probe)
        record(job, look)

    def on_lost(job: int, reason: str) -> None:
        record(job, Probe(None, dict.fromkeys(files[job][1], (reason, _told(reason, "looking at", timeout_s))), 0.0))

    run_jobs(
        _LookAt(files, source, preset), range(len(files)), on_result=on_result, on_lost=on_lost, workers=workers,
        timeout_s=timeout_s,
    )  # fmt: skip
    return looks


def _paths(clip: Clip, preset: Preset) -> list[tuple[str, str]]:
    return [(m, clip.paths[m]) for m in preset.modalities if m in clip.paths]


def _told(reason: str, doing: str, timeout_s: float) -> str:
    return {
        "timeout": f"{doing} it took more than {timeout_s:g} s, twice",
        "died": f"{doing} it ended its process, twice",
    }[reason]


def _why_unusable(clip: Clip, preset: Preset, looks: Mapping[str, Probe]) -> Why | None:
    for m, path in _paths(clip, preset):
        name, row = row_of(path)
        look = looks[name]
        if m in look.why:
            return look.why[m]
        if row is not None and look.rows is not None and row >= look.rows:
            return "shape", f"it must have a row {row}, but has {look.rows} rows"
        ends = _end_of(look, preset.parts[m])
        if clip.start is not None and ends is not None and clip.start >= ends:
            return "duration", f"its {m} ends at {ends:.2f} s, before `start` ({clip.start:g} s)"
    return None


def _end_of(look: Probe, part: Part) -> float | None:
    """Seconds; None where a file has none."""
    return look.audio_s if isinstance(part, AudioPreset) else look.video_s


# --- sample ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Decoded:
    """How it went for one clip of the sample; `seconds` of one core, None where it was ended from outside."""

    why: Why | None
    seconds: float | None
    size: str | None


@dataclass(frozen=True)
class _Timing:
    """Decode a clip, and return how it went and how long it took, but not its rows."""

    work: DecodeRow

    def __call__(self, job: int) -> _Decoded:
        started = time.perf_counter()
        status: RowStatus = self.work(job).status
        seconds = time.perf_counter() - started
        why = None if status["stage"] is None else (status["stage"], status["message"])
        meta = status["meta"]
        return _Decoded(why, seconds, f"{meta['width']} x {meta['height']}" if "width" in meta else None)


def _decode(
    work: DecodeRow, count: int, workers: int | None, timeout_s: float, progress: Progress
) -> dict[int, _Decoded]:
    decoded: dict[int, _Decoded] = {}

    def record(job: int, seen: _Decoded) -> None:
        decoded[job] = seen
        progress(len(decoded), count)

    def on_result(job: int, seen: object) -> None:
        assert isinstance(seen, _Decoded)
        record(job, seen)

    def on_lost(job: int, reason: str) -> None:
        record(job, _Decoded((reason, _told(reason, "decoding", timeout_s)), None, None))

    run_jobs(
        _Timing(work), range(count), on_result=on_result, on_lost=on_lost, workers=workers, timeout_s=timeout_s, chunk=8
    )
    return decoded


def spread(clips: Sequence[Clip], rows: Sequence[int], wanted: int) -> list[int]:
    """`wanted` of the rows, as many of each split and class, evenly over each; all where there are no more."""
    queues: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for row in rows:
        queues[clips[row].split, clips[row].label].append(row)
    share = dict.fromkeys(sorted(queues), 0)
    left = min(wanted, len(rows))
    while left:
        for key in [key for key, count in share.items() if count < len(queues[key])][:left]:
            share[key] += 1
            left -= 1
    return sorted(queues[key][i * len(queues[key]) // count] for key, count in share.items() for i in range(count))


# --- judge -----------------------------------------------------------------------------------------------------------


def _bad_fraction(clips: int, lost: int, decoded: int, failed: int) -> float:
    """Of all clips: those that cannot be opened, and of the others as many as in the sample."""
    if not clips:
        return 0.0
    return (lost + (clips - lost) * (failed / decoded if decoded else 0.0)) / clips


def _bytes(preset: Preset, clips: int) -> int:
    parts = {m: preset.parts[m] for m in preset.modalities}
    return sum(Layout(m, part, clips, rows_per_shard(part)).bytes for m, part in parts.items())


def _seconds(looks: Mapping[str, Probe], decoded: Mapping[int, _Decoded], clips: int, cores: int) -> float | None:
    """A preparation takes checksums of all files, and decodes all clips."""
    times = [seen.seconds for seen in decoded.values() if seen.seconds is not None]
    if not times:
        return None
    return (sum(look.seconds for look in looks.values()) + clips * float(np.mean(times))) / cores


def _without_paths(clips: Sequence[Clip], preset: Preset) -> list[str]:
    without = [clip.id for clip in clips if not set(preset.modalities) <= set(clip.paths)]
    if not without:
        return []
    return [
        f"the preset {preset.name!r} needs {' and '.join(preset.modalities)} of every clip, but {len(without)} lack "
        f"one of them, {without[0]} first; complete their paths or choose another preset"
    ]


def _problems(report: CheckReport, max_bad: float, split_of: Mapping[str, str]) -> list[str]:
    found = []
    if report.bad_fraction > max_bad:
        found.append(
            f"at most {max_bad:.1%} of the clips may be unusable, but about {report.bad_fraction:.1%} are; mend or "
            "remove them, or allow more (`--max-bad`)"
        )
    if report.leaking:
        found.append(
            f"a group must stay in one split, but {len(report.leaking)} do not: {_some(report.leaking)}; give all "
            "clips of a group the same split"
        )
    if report.crossing:
        crossing = [ids for ids in report.duplicates if len({split_of[each] for each in ids}) > 1]
        shown = [" = ".join(f"{each} ({split_of[each]})" for each in ids) for ids in crossing]
        found.append(
            f"the same content must not be in two splits, but is {len(crossing)} times: {_some(shown)}; keep "
            "one of each"
        )
    for split, of_class in report.clips_by_split_and_class.items():
        absent = [label for label, count in of_class.items() if not count]
        if absent:
            found.append(f"every class must be in every split, but {split} has no clip of: {_some(absent)}")
    missing = [split for split in ("train", "val") if split not in report.clips_by_split_and_class]
    if missing:
        found.append(f"a corpus must have the splits train and val, but has no {' and no '.join(missing)}")
    return found


def _warnings(report: CheckReport, label_of: Mapping[str, str]) -> list[str]:
    found = []
    if report.imbalance > LARGEST_IMBALANCE:
        found.append(
            f"the largest class has {report.imbalance:.0f} times as many clips as the smallest: look at macro-F1 "
            "beside accuracy"
        )
    within = len(report.duplicates) - report.crossing
    if within:
        found.append(f"{within} times clips of one split have the same content")
    torn = [ids for ids in report.duplicates if len({label_of[each] for each in ids}) > 1]
    if torn:
        found.append(f"{len(torn)} times the same content has two classes: {_some([' = '.join(ids) for ids in torn])}")
    if "test" not in report.clips_by_split_and_class:
        found.append("there is no split test: a study's replicates need one")
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _duplicates(clips: Sequence[Clip], looks: Mapping[str, Probe], preset: Preset) -> tuple[tuple[str, ...], ...]:
    """Clips whose files and times are the same in every modality. Rows of one array are told apart by their number."""
    alike: dict[Any, list[str]] = collections.defaultdict(list)
    for clip in clips:
        files = [(m, *row_of(path)) for m, path in _paths(clip, preset)]
        key = tuple((m, looks[name].content, row) for m, name, row in files)
        if key and all(content is not None and content[0] for _, content, _ in key):  # empty files are bad, not alike
            alike[key, clip.start, clip.end].append(str(clip.id))
    return tuple(sorted(tuple(sorted(ids)) for ids in alike.values() if len(ids) > 1))


def _leaking(clips: Sequence[Clip]) -> tuple[str, ...]:
    splits: dict[str, set[str]] = collections.defaultdict(set)
    for clip in clips:
        if clip.group is not None:
            splits[clip.group].add(clip.split)
    return tuple(sorted(group for group, found in splits.items() if len(found) > 1))


def _groups(clips: Sequence[Clip]) -> dict[str, int]:
    groups = {split: {clip.group for clip in clips if clip.split == split and clip.group} for split in SPLITS}
    return {split: len(found) for split, found in groups.items() if found}


def _durations(clips: Sequence[Clip], preset: Preset, looks: Mapping[str, Probe]) -> dict[str, Spread]:
    """Of the clips whose files can be opened, each from its `start` to its `end`."""
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for clip in clips:
        lasts: dict[str, float] = {}
        for m, path in _paths(clip, preset):
            ends = _end_of(looks[row_of(path)[0]], preset.parts[m])
            if ends is not None and m in ("audio", "video"):
                lasts[m] = max(0.0, min(ends, ends if clip.end is None else clip.end) - (clip.start or 0.0))
        for m, length in lasts.items():
            seconds[m].append(length)
        if len(lasts) == 2:
            seconds["gap"].append(abs(lasts["audio"] - lasts["video"]))
    return {
        m: Spread(min(of), float(np.median(of)), max(of)) for m in ("audio", "video", "gap") if (of := seconds.get(m))
    }


def _most(values: Iterable[str | None]) -> dict[str, int]:
    return dict(collections.Counter(value for value in values if value is not None).most_common(5))
