"""Checking a corpus before its preparation, without writing anything

    probe       open and read every file once, without decoding it; checksums find duplicates
    sample      decode some clips, stratified by split and class
    report      list the problems and warnings, and estimate the cost of a preparation

Sizes and times are estimates. The fraction of unusable clips is an estimate unless all clips are decoded.
"""

# N clips

import collections
import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from remix_study.datasets.corpus import Found
from remix_study.datasets.manifest import SPLITS
from remix_study.errors import MediaError, RemixStudyError
from remix_study.media.build import DecodeRow, PackedClips
from remix_study.media.checks import Checks, check_file, check_least, check_length, check_window
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
from remix_study.modality import AUDIO, VIDEO
from remix_study.sample import Clip, SampleId

LARGEST_IMBALANCE = 10.0
_NAMED = 5  # names in a message


class Why(NamedTuple):
    """The reason for a quarantine, such as `missing`, its description, and the unusable file."""

    stage: str
    message: str
    path: str | None = None


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Bad:
    """An unusable clip: the reason for its quarantine (`stage`), its description, and the file that cannot be used."""

    id: str
    label: str
    stage: str
    message: str
    path: str | None = None


@dataclass(frozen=True)
class CheckReport:
    """The result of a check.

    Attributes:
        name: the corpus's name.
        clips: number of clips.
        clips_by_split_and_class, groups_by_split, absent_by_class: counts.
        durations: seconds of the clips' `audio` and `video`, and the `gap` between the two.
        sizes, frame_rates, sample_rates: the five most frequent values, with counts; `sizes` (W x H) of decoded clips.
        bad: unusable clips, among all clips that were probed and the `decoded` ones.
        bad_fraction: estimated fraction of unusable clips, 0 to 1.
        decoded: number of decoded clips.
        leaking: groups in more than one split.
        duplicates: ids of clips with the same content.
        crossing: how many of the duplicates are in several splits.
        imbalance: number of clips of the largest class divided by that of the smallest.
        bytes: size of the store.
        seconds: estimated time of a preparation on `cores` cores; None if no clip could be decoded.
        problems: must be fixed before a preparation.
        warnings: need attention, but do not prevent a preparation.
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
        """Number of unusable clips for each reason."""
        return dict(collections.Counter(bad.stage for bad in self.bad).most_common())

    @property
    def bad_by_class(self) -> dict[str, int]:
        """Number of unusable clips of each class."""
        return dict(sorted(collections.Counter(bad.label for bad in self.bad).items()))

    def plain(self) -> dict[str, Any]:
        """The report as JSON data."""
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
    """Probe the files of all clips and decode a sample of the clips. Nothing is written.

    Args:
        name: the corpus's name.
        found: its clips.
        source: where its files are.
        preset: what a preparation would keep.
        decoder: `pyav`, `torchcodec` or `decord`.
        checks: what to accept; by default `Checks()`.
        sample: how many clips to decode.
        max_bad: largest acceptable fraction of unusable clips, 0 to 1.
        workers: number of worker processes; None means one per core.
        timeout_s: seconds that one file or clip may take.
        progress: called as `progress(title)`; returns a callback for (done, total).

    Raises:
        StoreError: the decoder is not installed, or worker processes cannot be started.
    """
    decoder_version(decoder)
    clips, say = found.clips, progress or (lambda _title: lambda _done, _total: None)
    accepted = checks or Checks()
    probes = _probe_files(clips, source, preset, accepted, workers, timeout_s, say("opening files"))
    reasons = {row: _why_unusable(clip, preset, probes, accepted) for row, clip in enumerate(clips)}
    lost = {row: why for row, why in reasons.items() if why is not None}
    good = [row for row in range(len(clips)) if row not in lost]
    chosen = stratified_sample(clips, good, sample)
    work = DecodeRow(PackedClips.of([clips[row] for row in chosen]), source, preset, decoder, accepted, {})
    decoded = _decode(work, len(chosen), workers, timeout_s, say("decoding a sample"))
    failed = {chosen[job]: clip.why for job, clip in decoded.items() if clip.why is not None}
    cores = workers or available_cores()
    duplicates = _duplicates(clips, probes, preset)
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
        durations=_durations(clips, preset, probes),
        sizes=_most_frequent(clip.size for clip in decoded.values()),
        frame_rates=_most_frequent(file.frame_rate for file in probes.values()),
        sample_rates=_most_frequent(file.sample_rate for file in probes.values()),
        bad=tuple(Bad(str(clips[row].id), clips[row].label, *why) for row, why in sorted({**lost, **failed}.items())),
        bad_fraction=_bad_fraction(len(clips), len(lost), len(chosen), len(failed)),
        decoded=len(chosen),
        leaking=_leaking(clips),
        duplicates=duplicates,
        crossing=sum(len({split_of[each] for each in ids}) > 1 for ids in duplicates),
        imbalance=max(of_class.values()) / min(of_class.values()) if of_class else 1.0,
        bytes=_bytes(preset, len(clips)),
        seconds=_seconds(probes, decoded, len(clips), cores),
        cores=cores,
        problems=(),
        warnings=(),
    )
    return dataclasses.replace(
        report,
        problems=(*_without_paths(clips, preset), *_problems(report, max_bad, split_of, found.shared)),
        warnings=(*found.warnings, *_warnings(report, {str(clip.id): clip.label for clip in clips})),
    )


# --- probe -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """What is known about one file without decoding it.

    Attributes:
        content: size in bytes and digest; None if the file is missing.
        why: for each modality that the file cannot be used for, the reason.
        seconds: how long its checksum took.
        audio_s, video_s: where its tracks end.
        frame_rate, sample_rate: as text, with the unit.
        rows: number of rows of an array.
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
class _ProbeFile:
    """The job of a worker process: probe file number `job` for the modalities that it is used for."""

    files: Sequence[tuple[str, frozenset[str]]]
    source: Source
    preset: Preset
    checks: Checks

    def __call__(self, job: int) -> Probe:
        name, modalities = self.files[job]
        started = time.perf_counter()
        content = self.source.identity(name)
        seconds = time.perf_counter() - started
        facts: dict[str, Any] = {}
        why: dict[str, Why] = {}
        with self.source.local(name) as path:
            for m in sorted(modalities):
                try:
                    facts |= _facts(path, self.preset.parts[m], self.checks)
                except MediaError as error:
                    why[m] = Why(error.stage, str(error), name)
                except RemixStudyError:  # not the file's fault: a source does not answer
                    raise
                except Exception as error:  # an error that a damaged file causes must not stop the others
                    why[m] = Why("open", f"it cannot be read ({type(error).__name__})", name)
        return Probe(content, why, seconds, **facts)


def _facts(path: Path, part: Part, checks: Checks) -> dict[str, Any]:
    """Fields of a `Probe`.

    Raises:
        MediaError: the file cannot be used for this part of a preset.
    """
    match part:
        case FeaturePreset():
            shape = open_array(path).shape
            return {"rows": shape[0] if shape else 0}
        case FlowPreset(source="given"):
            if not path.is_dir():
                raise MediaError("there is no such folder of flow images", stage="missing")
        case VideoPreset() if path.is_dir():
            frame_files(path)
        case VideoPreset() if is_image(path):
            check_file(path)
        case AudioPreset():
            return _audio_facts(probe(path), checks)
        case _:
            return _video_facts(probe(path), checks)
    return {}


def _audio_facts(container: Container, checks: Checks) -> dict[str, Any]:
    if container.audio_rate is None:
        raise MediaError("it has no audio track", stage="audio")
    if container.audio_end_s:
        check_length(AUDIO, container.audio_end_s, container.duration_s, checks)
    return {"audio_s": container.audio_end_s, "sample_rate": f"{container.audio_rate} Hz"}


def _video_facts(container: Container, checks: Checks) -> dict[str, Any]:
    times_F = container.frame_times_F
    if times_F is None:
        raise MediaError("it has no video track", stage="video")
    if not len(times_F):
        raise MediaError("its video track has no frames", stage="frames")
    check_length(VIDEO, container.video_end_s, container.duration_s, checks)
    duration = container.video_end_s - float(times_F[0])
    rate = {"frame_rate": f"{len(times_F) / duration:.3g} / s"} if duration > 0 else {}
    return {"video_s": container.video_end_s, **rate}


def _probe_files(
    clips: Sequence[Clip],
    source: Source,
    preset: Preset,
    checks: Checks,
    workers: int | None,
    timeout_s: float,
    progress: Progress,
) -> dict[str, Probe]:
    """Probe each file once, although it may hold several clips. Returns the probes by file."""
    used: dict[str, set[str]] = collections.defaultdict(set)
    for clip in clips:
        for m, path in _paths(clip, preset):
            used[row_of(path)[0]].add(m)
    files = [(name, frozenset(modalities)) for name, modalities in sorted(used.items())]
    probes: dict[str, Probe] = {}

    def record(job: int, result: Probe) -> None:
        probes[files[job][0]] = result
        progress(len(probes), len(files))

    def on_result(job: int, result: object) -> None:
        assert isinstance(result, Probe)
        record(job, result)

    def on_lost(job: int, reason: str) -> None:
        why = Why(reason, _lost_message(reason, "reading", timeout_s), files[job][0])
        record(job, Probe(None, dict.fromkeys(files[job][1], why), 0.0))

    run_jobs(
        _ProbeFile(files, source, preset, checks), range(len(files)), on_result=on_result, on_lost=on_lost,
        workers=workers, timeout_s=timeout_s,
    )  # fmt: skip
    return probes


def _paths(clip: Clip, preset: Preset) -> list[tuple[str, str]]:
    return [(m, clip.paths[m]) for m in preset.modalities if m in clip.paths]


def _lost_message(reason: str, doing: str, timeout_s: float) -> str:
    return {
        "timeout": f"{doing} it took more than {timeout_s:g} s, twice",
        "died": f"{doing} it crashed the worker process, twice",
    }[reason]


def _why_unusable(clip: Clip, preset: Preset, probes: Mapping[str, Probe], checks: Checks) -> Why | None:
    for m, path in _paths(clip, preset):
        name, row = row_of(path)
        file = probes[name]
        if m in file.why:
            return file.why[m]
        if row is not None and file.rows is not None and row >= file.rows:
            return Why("shape", f"it must have a row {row}, but has {file.rows} rows", name)
        try:
            _require_window(clip, file, preset.parts[m], checks)
        except MediaError as error:
            return Why(error.stage, str(error), name)
    return None


def _require_window(clip: Clip, file: Probe, part: Part, checks: Checks) -> None:
    """Check that a track is long enough for a clip.

    Raises:
        MediaError: stage `duration`.
    """
    if isinstance(part, AudioPreset) and file.audio_s is not None:
        check_window(AUDIO, clip.start, clip.end, file.audio_s, checks)
        check_least(min(file.audio_s, clip.end or file.audio_s) - (clip.start or 0.0), part.least_s)
    elif not isinstance(part, AudioPreset) and file.video_s is not None:
        check_window(VIDEO, clip.start, clip.end, file.video_s, checks)


# --- sample ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Decoded:
    """The result of one clip of the sample. `seconds` is the time on one core; None if its process was killed."""

    why: Why | None
    seconds: float | None
    size: str | None


@dataclass(frozen=True)
class _Timing:
    """The job of a worker process: decode a clip, and return its status and time but not its rows."""

    work: DecodeRow

    def __call__(self, job: int) -> _Decoded:
        started = time.perf_counter()
        status: RowStatus = self.work(job).status
        seconds = time.perf_counter() - started
        stage = status["stage"]
        why = None if stage is None else Why(stage, status["message"], status.get("path"))
        meta = status["meta"]
        return _Decoded(why, seconds, f"{meta['width']} x {meta['height']}" if "width" in meta else None)


def _decode(
    work: DecodeRow, count: int, workers: int | None, timeout_s: float, progress: Progress
) -> dict[int, _Decoded]:
    decoded: dict[int, _Decoded] = {}

    def record(job: int, result: _Decoded) -> None:
        decoded[job] = result
        progress(len(decoded), count)

    def on_result(job: int, result: object) -> None:
        assert isinstance(result, _Decoded)
        record(job, result)

    def on_lost(job: int, reason: str) -> None:
        record(job, _Decoded(Why(reason, _lost_message(reason, "decoding", timeout_s)), None, None))

    run_jobs(
        _Timing(work), range(count), on_result=on_result, on_lost=on_lost, workers=workers, timeout_s=timeout_s, chunk=8
    )
    return decoded


def stratified_sample(clips: Sequence[Clip], rows: Sequence[int], wanted: int) -> list[int]:
    """Choose `wanted` rows, as equally as possible from each split and class, and evenly spaced within each."""
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


# --- report ----------------------------------------------------------------------------------------------------------


def _bad_fraction(clips: int, lost: int, decoded: int, failed: int) -> float:
    """Estimate the fraction of unusable clips: those that cannot be opened, and the sample's fraction of the others."""
    if not clips:
        return 0.0
    return (lost + (clips - lost) * (failed / decoded if decoded else 0.0)) / clips


def _bytes(preset: Preset, clips: int) -> int:
    parts = {m: preset.parts[m] for m in preset.modalities}
    return sum(Layout(m, part, clips, rows_per_shard(part)).bytes for m, part in parts.items())


def _seconds(probes: Mapping[str, Probe], decoded: Mapping[int, _Decoded], clips: int, cores: int) -> float | None:
    """Estimate the time of a preparation, which computes checksums of all files and decodes all clips."""
    times = [clip.seconds for clip in decoded.values() if clip.seconds is not None]
    if not times:
        return None
    return (sum(file.seconds for file in probes.values()) + clips * float(np.mean(times))) / cores


def _without_paths(clips: Sequence[Clip], preset: Preset) -> list[str]:
    without = [clip.id for clip in clips if not set(preset.modalities) <= set(clip.paths)]
    if not without:
        return []
    return [
        f"the preset {preset.name!r} needs {' and '.join(preset.modalities)} of every clip, but {len(without)} lack "
        f"one of them, such as {without[0]}; complete their paths, or choose another preset"
    ]


def _problems(
    report: CheckReport, max_bad: float, split_of: Mapping[str, str], shared: Collection[SampleId]
) -> list[str]:
    """What must be fixed. `shared`: clips that a published split does not separate, of which there is a warning."""
    found = []
    if report.bad_fraction > max_bad:
        found.append(
            f"at most {max_bad:.1%} of the clips may be unusable, but about {report.bad_fraction:.1%} are; repair or "
            "remove them, or allow more (`--max-bad`)"
        )
    if report.leaking:
        found.append(
            f"every group must be in one split, but {len(report.leaking)} are in several: {_some(report.leaking)}; "
            "give all clips of a group the same split"
        )
    crossing = [
        ids
        for ids in report.duplicates
        if len({split_of[each] for each in ids}) > 1 and not all(each in shared for each in ids)
    ]
    if crossing:
        shown = [" = ".join(f"{each} ({split_of[each]})" for each in ids) for ids in crossing]
        found.append(
            f"clips of different splits must not have the same content, but {_sets(len(crossing))} "
            f"{'does' if len(crossing) == 1 else 'do'}: {_some(shown)}; "
            "keep one of each"
        )
    for split, of_class in report.clips_by_split_and_class.items():
        absent = [label for label, count in of_class.items() if not count]
        if absent:
            found.append(f"every split must have clips of every class, but {split} has none of: {_some(absent)}")
    missing = [split for split in ("train", "val") if split not in report.clips_by_split_and_class]
    if missing:
        found.append(f"the corpus must have the splits train and val, but has no {' and no '.join(missing)}")
    return found


def _warnings(report: CheckReport, label_of: Mapping[str, str]) -> list[str]:
    found = []
    if report.imbalance > LARGEST_IMBALANCE:
        found.append(
            f"the largest class has {report.imbalance:.0f} times as many clips as the smallest; compare macro-F1 as "
            "well as accuracy"
        )
    within = len(report.duplicates) - report.crossing
    if within:
        found.append(f"{_sets(within)} within one split with the same content")
    mixed = [ids for ids in report.duplicates if len({label_of[each] for each in ids}) > 1]
    if mixed:
        sets = _some([" = ".join(ids) for ids in mixed])
        found.append(f"{_sets(len(mixed))} with the same content, but several classes: {sets}")
    if "test" not in report.clips_by_split_and_class:
        found.append("there is no test split, which a study's replicates need")
    return found


def _sets(count: int) -> str:
    return f"{count} set{'s' * (count != 1)} of clips"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _duplicates(clips: Sequence[Clip], probes: Mapping[str, Probe], preset: Preset) -> tuple[tuple[str, ...], ...]:
    """Sets of clips with the same content and times in every modality. Rows of an array count as different."""
    alike: dict[Any, list[str]] = collections.defaultdict(list)
    for clip in clips:
        files = [(m, *row_of(path)) for m, path in _paths(clip, preset)]
        key = tuple((m, probes[name].content, row) for m, name, row in files)
        if key and all(content is not None and content[0] for _, content, _ in key):  # empty files are not duplicates
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


def _durations(clips: Sequence[Clip], preset: Preset, probes: Mapping[str, Probe]) -> dict[str, Spread]:
    """Durations of the clips whose files can be opened, each from its `start` to its `end`."""
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for clip in clips:
        lengths: dict[str, float] = {}
        for m, path in _paths(clip, preset):
            file = probes[row_of(path)[0]]
            ends = file.audio_s if isinstance(preset.parts[m], AudioPreset) else file.video_s
            if ends is not None and m in ("audio", "video"):
                lengths[m] = max(0.0, min(ends, ends if clip.end is None else clip.end) - (clip.start or 0.0))
        for m, length in lengths.items():
            seconds[m].append(length)
        if len(lengths) == 2:
            seconds["gap"].append(abs(lengths["audio"] - lengths["video"]))
    return {
        m: Spread(min(of), float(np.median(of)), max(of)) for m in ("audio", "video", "gap") if (of := seconds.get(m))
    }


def _most_frequent(values: Iterable[str | None]) -> dict[str, int]:
    return dict(collections.Counter(value for value in values if value is not None).most_common(5))
