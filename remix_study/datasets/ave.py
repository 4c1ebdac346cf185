"""AVE: 28 audio-visual events, such as a bark, a church bell or a frying pan

Tian, Shi, Li, Duan, Xu, "Audio-Visual Event Localization in Unconstrained Videos", ECCV 2018, arXiv 1803.08842. 4,143
annotated events in videos of 10 s, chosen from AudioSet. Its authors state no licence; AudioSet's labels are under
CC BY 4.0, and the videos belong to their uploaders.

Layout of the root (the text files may be in a separate folder, `--lists`):

    AVE/<YouTube id>.mp4                        anywhere below the root
    trainSet.txt, valSet.txt, testSet.txt       3,339 / 402 / 402 lines, `Church bell&RUhOCu3LNXM&good&0&10`: category,
                                                video, quality, and the seconds in which the event begins and ends
    Annotations.txt                             all lines together; not read

Some copies begin with the line `Category&VideoID&Quality&StartTime&EndTime`, which is skipped. The label is the
category of the whole video, as in the papers on balance, not of each second. `truth` has `quality`, `event_start` and
`event_end`.

Split: as published. The group of a clip is its video.

Pitfalls: a video may have several events, so that there are fewer videos than clips. The id of its first event is the
video's id; the others are `<YouTube id>.2` and so on. If they are in different splits (a warning counts them), these
clips have no group, because the published split does not separate them. Some events have a duration of 0 s.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple

from remix_study.datasets.corpus import Found
from remix_study.datasets.manifest import SPLITS, refuse
from remix_study.datasets.published import PublishedList, absence, find_list, listing, sizes, unrepresented
from remix_study.errors import ConfigError, ManifestError
from remix_study.media.presets import PRESETS, Preset
from remix_study.media.source import Source
from remix_study.modality import AUDIO, VIDEO
from remix_study.sample import Clip, SampleId

CATEGORIES = (
    "Accordion", "Acoustic guitar", "Baby cry, infant cry", "Banjo", "Bark", "Bus", "Cat", "Chainsaw", "Church bell",
    "Clock", "Female speech, woman speaking", "Fixed-wing aircraft, airplane", "Flute", "Frying (food)", "Goat",
    "Helicopter", "Horse", "Male speech, man speaking", "Mandolin", "Motorcycle", "Race car, auto racing",
    "Rodents, rats, mice", "Shofar", "Toilet flush", "Train horn", "Truck", "Ukulele", "Violin, fiddle",
)  # fmt: skip
COUNTS: Mapping[str, int] = {"train": 3339, "val": 402, "test": 402}
"""Number of lines of each published list, by split"""

_VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".flv")
_HEADER = "Category"


class _Event(NamedTuple):
    clip: str
    video: str
    label: str
    split: str
    quality: str
    start: int
    end: int


@dataclass(frozen=True)
class Ave:
    """AVE below a source.

    Args:
        source: the corpus's files.
        lists: the folder of trainSet.txt, valSet.txt and testSet.txt, if they are not in the source.
        preset: what to keep of each clip.

    Raises:
        ConfigError: the preset has other modalities than audio and video.
    """

    name: ClassVar[str] = "ave"

    source: Source
    lists: Path | None = None
    preset: Preset = PRESETS["kinetics_sounds"]

    def __post_init__(self) -> None:
        if set(self.preset.modalities) - {AUDIO, VIDEO}:
            raise ConfigError(f"AVE has only audio and video, but `preset` {self.preset.name} has other modalities.")

    def find(self) -> Found:
        """Find the listed clips whose video exists, sorted by id.

        Raises:
            ManifestError: a list is missing or has problems, or there are no videos.
        """
        files = self.source.list()
        events = _numbered({split: self._listed(split, files) for split in SPLITS})
        paths, notes = _videos(files, {event.video for event in events})
        if not paths:
            raise ManifestError(
                f"Cannot find the videos of AVE below {self.source.root}, such as AVE/{events[0].video}.mp4. Check the "
                "folder."
            )
        notes += _about(events)
        shared = _shared(events)
        clips = tuple(
            Clip(
                id=SampleId(event.clip),
                paths=dict.fromkeys(self.preset.modalities, paths[event.video]),
                label=event.label,
                split=event.split,
                group=None if event.video in shared else event.video,
                truth={"quality": event.quality, "event_start": event.start, "event_end": event.end},
            )
            for event in sorted(events)
            if event.video in paths
        )
        absent = {event.clip: event.label for event in sorted(events) if event.video not in paths}
        notes += absence(absent, collections.Counter(event.label for event in events))
        notes += unrepresented(clips)
        facts = {
            "corpus": "AVE",
            "licence": "not stated by its authors; labels of AudioSet: CC BY 4.0; the videos belong to their uploaders",
            "citation": "Tian et al., ECCV 2018, arXiv:1803.08842",
            "split": f"as published: {sizes(clips)}",
        }
        together = frozenset(clip.id for clip in clips if clip.group is None)
        return Found(clips, facts, tuple(notes), absent, shared=together)

    def _listed(self, split: str, files: Sequence[str]) -> PublishedList:
        name = f"{split}Set.txt"
        found = find_list((name,), self.source, files, self.lists)
        if found is None:
            raise ManifestError(
                f"Cannot find {name} below {self.source.root}. AVE's split is published with the videos, as "
                "trainSet.txt, valSet.txt and testSet.txt. Give the folder of these files with `--lists`."
            )
        return found


def _numbered(lists: Mapping[str, PublishedList]) -> list[_Event]:
    """The events of all lists. The ids of a video's second and later events end in a number."""
    events: list[_Event] = []
    seen: collections.Counter[str] = collections.Counter()
    for split, listed in lists.items():
        problems: list[str] = []
        before = len(events)
        for number, line in listed.lines():
            label, *cells = (cell.strip() for cell in line.split("&"))
            if label == _HEADER:
                continue
            if len(cells) != 4 or not label or not cells[0] or not all(cell.isdecimal() for cell in cells[2:]):
                problems.append(f"line {number}: it must look like Church bell&RUhOCu3LNXM&good&0&10, but is {line!r}")
                continue
            video, quality, start, end = cells
            seen[video] += 1
            clip = video if seen[video] == 1 else f"{video}.{seen[video]}"
            events.append(_Event(clip, video, label, split, quality, int(start), int(end)))
        if len(events) == before and not problems:
            problems.append("it has no clips")
        refuse(listed.where, problems)
    return events


def _videos(files: Iterable[str], wanted: set[str]) -> tuple[dict[str, str], list[str]]:
    """The file of each video, the first by name; and a warning about further files of the same name."""
    paths: dict[str, str] = {}
    copies: list[str] = []
    for file in files:
        path = PurePosixPath(file)
        if path.suffix.lower() in _VIDEOS and path.stem in wanted and paths.setdefault(path.stem, file) != file:
            copies.append(file)
    return paths, [listing("files that have the name of another file, ignored", copies)] if copies else []


def _shared(events: Iterable[_Event]) -> set[str]:
    """Videos with events in several splits."""
    splits = collections.defaultdict(set)
    for event in events:
        splits[event.video].add(event.split)
    return {video for video, found in splits.items() if len(found) > 1}


def _about(events: Sequence[_Event]) -> list[str]:
    """Warnings about the lists."""
    notes = []
    counts = collections.Counter(event.split for event in events)
    if other := [f"{split} {counts[split]} of {total}" for split, total in COUNTS.items() if counts[split] != total]:
        notes.append(f"the lists differ from AVE's published ones in their number of lines: {', '.join(other)}.")
    labels = {event.label for event in events}
    if unknown := sorted(labels.difference(CATEGORIES)):
        notes.append(listing(f"categories in the lists that are not among AVE's {len(CATEGORIES)}", unknown))
    if shared := sorted(_shared(events)):
        notes.append(listing("videos with events in more than one split, as published", shared))
    if instant := [event.clip for event in events if event.end <= event.start]:
        notes.append(listing("listed events with a duration of 0 s, kept", instant))
    return notes
