"""`remix-study prepare`: from a folder of media files (or a URL) to a clip store, one command per corpus

Every command finds the clips, says what is missing or doubtful, and then decodes them once; with `--check` it looks at
everything and writes nothing. On the Ray cluster that RAY_ADDRESS names, all its cores decode.
"""

import dataclasses
import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.markup import escape

from remix_study.cli import terminal
from remix_study.errors import ConfigError

if TYPE_CHECKING:
    from remix_study.datasets.corpus import Corpus, Found
    from remix_study.media.presets import Preset

app = typer.Typer(help="Turn media files into a clip store that training reads.", no_args_is_help=True)
out, err = Console(), Console(stderr=True)
_WARNINGS_SHOWN = 20

Root = Annotated[str, typer.Option(help="Where the corpus's files are: a folder, or a URL such as s3://...")]
Lists = Annotated[Path | None, typer.Option(help="The folder of the published lists, if they are not in the root.")]
PresetName = Annotated[str, typer.Option(help="What the store keeps of a clip, such as ogm or fbank1024+3x224.")]
Seed = Annotated[int, typer.Option(min=0, help="Of splits that are drawn; the same seed draws the same.")]


@dataclasses.dataclass(frozen=True)
class How:
    """The options that every corpus has."""

    out: Annotated[str | None, typer.Option(help="Where the store goes: a folder, or a URL such as s3://...")] = None
    decoder: Annotated[str, typer.Option(help="pyav, or decord.")] = "pyav"
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")] = None
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one clip may take.")] = 60.0
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="Part of the clips that may be unusable.")] = 0.01
    replace: Annotated[bool, typer.Option("--replace", help="Replace a store that was made otherwise.")] = False
    wait: Annotated[bool, typer.Option("--wait", help="For another preparation to end, rather than refuse.")] = False
    check: Annotated[bool, typer.Option("--check", help="Look at everything, report, write nothing.")] = False
    sample: Annotated[int, typer.Option(min=0, help="With --check: how many clips to decode.")] = 100
    as_json: Annotated[bool, typer.Option("--json", help="With --check: for machines.")] = False

    def __post_init__(self) -> None:
        _one_of("--decoder", self.decoder, "pyav", "decord")
        if self.out is None and not self.check:
            raise ConfigError("`--out` must say where the store goes, but is not given. To look only: --check")

    def work(self) -> Path:
        """Where a corpus may unpack what it cannot read in place: with its store; nowhere that stays, to check."""
        from remix_study.files.remote_folder import cache_folder
        from remix_study.files.scratch import scratch
        from remix_study.files.urls import is_url

        if self.out is None or self.check:
            return scratch()
        return (cache_folder(self.out) if is_url(self.out) else Path(self.out)) / "unpacked"


def _command(name: str) -> Callable[[Callable[..., "Corpus"]], Callable[..., "Corpus"]]:
    """A command out of a function that makes a corpus: its options are the function's own, and those of `How`.

    What it calls `work` is no option, but a folder where it may unpack things.
    """

    def register(make: Callable[..., "Corpus"]) -> Callable[..., "Corpus"]:
        own = get_type_hints(make, localns={"Corpus": object}, include_extras=True)
        own.pop("return")
        unpacks = own.pop("work", None) is not None
        shared = get_type_hints(How, include_extras=True)

        def command(**given: Any) -> None:
            how = How(**{key: given[key] for key in shared})
            chosen = {key: given[key] for key in own}
            _prepare(lambda: make(**chosen, **({"work": how.work()} if unpacks else {})), how)

        defaults = {field.name: field.default for field in dataclasses.fields(How)}
        parameters = [p for p in inspect.signature(make).parameters.values() if p.name in own] + [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=defaults[key], annotation=kind)
            for key, kind in shared.items()
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        command.__annotations__ = {**own, **shared}
        command.__doc__ = make.__doc__
        app.command(name)(command)
        return make

    return register


@app.command("synthetic")
def _synthetic(
    out_: Annotated[Path, typer.Option("--out", help="The corpus folder: clips, manifest and store.")],
    train: Annotated[int, typer.Option(help="Training clips.")] = 1000,
    val: Annotated[int, typer.Option(help="Validation clips.")] = 500,
    test: Annotated[int, typer.Option(help="Test clips.")] = 1000,
    classes: Annotated[int, typer.Option(help="Classes.")] = 8,
    audio_snr: Annotated[tuple[float, float], typer.Option(help="Audio signal-to-noise ratio, low and high, dB.")] = (
        0.0,
        15.0,
    ),
    video_snr: Annotated[tuple[float, float], typer.Option(help="Video signal-to-noise ratio, low and high, dB.")] = (
        -8.0,
        2.0,
    ),
    muted: Annotated[float, typer.Option(help="Part of the clips whose sound is noise only.")] = 0.15,
    seed: Annotated[int, typer.Option(help="The same seed renders the same bytes.")] = 0,
    preset: PresetName = "tiny",
    replace: Annotated[bool, typer.Option("--replace", help="Replace a store that was made otherwise.")] = False,
) -> None:
    """Render the procedural corpus as real clips, and decode them once."""
    from remix_study.datasets.corpus import prepare_synthetic
    from remix_study.datasets.synthetic import SyntheticSpec

    spec = SyntheticSpec(
        train=train, val=val, test=test, classes=classes, audio_snr_db=audio_snr, video_snr_db=video_snr, muted=muted,
        seed=seed,
    )  # fmt: skip
    with terminal.bars(err) as bar:
        store = prepare_synthetic(
            out_,
            spec,
            preset=preset,
            on_render=bar("rendering clips"),
            on_decode=bar("decoding clips"),
            replace=replace,
        )
    out.print(terminal.store_line(store))


@_command("cremad")
def _cremad(
    root: Root,
    split: Annotated[str, typer.Option(help="actor: nobody in two parts; folds: in turn; ogm: published.")] = "actor",
    folds: Annotated[int, typer.Option(min=3, help="Of --split folds.")] = 5,
    lists: Lists = None,
    seed: Seed = 0,
    preset: PresetName = "remix",
) -> "Corpus":
    """CREMA-D: 7442 clips, 91 actors, 6 emotions."""
    from remix_study.datasets.cremad import Cremad
    from remix_study.media.source import source_at

    chosen = _one_of("--split", split, "actor", "folds", "ogm")
    return Cremad(source_at(root), split=chosen, lists=lists, preset=_preset(preset), folds=folds, seed=seed)


@_command("kinetics-sounds")
def _kinetics_sounds(
    root: Root,
    classes: Annotated[str, typer.Option(help="31, 34, or a file with one class per line.")] = "31",
    lists: Lists = None,
    seed: Seed = 0,
    preset: PresetName = "kinetics_sounds",
) -> "Corpus":
    """Kinetics-Sounds: clips of 10 s from Kinetics that show and sound what is done."""
    from remix_study.datasets.kinetics_sounds import KineticsSounds
    from remix_study.media.source import source_at

    wanted = int(classes) if classes.isdigit() else Path(classes)
    return KineticsSounds(source_at(root), classes=wanted, lists=lists, preset=_preset(preset), seed=seed)


@_command("ave")
def _ave(root: Root, lists: Lists = None, preset: PresetName = "kinetics_sounds") -> "Corpus":
    """AVE: 4143 clips of 10 s, 28 audio-visual events."""
    from remix_study.datasets.ave import Ave
    from remix_study.media.source import source_at

    return Ave(source_at(root), lists=lists, preset=_preset(preset))


@_command("ucf101")
def _ucf101(
    root: Root,
    split: Annotated[int, typer.Option(min=1, max=3, help="Of the three published ones.")] = 1,
    flow: Annotated[str, typer.Option(help="computed, or given as folders of pictures.")] = "computed",
    lists: Lists = None,
    seed: Seed = 0,
) -> "Corpus":
    """UCF-101: 13320 clips of 101 actions, as pictures and optical flow."""
    from remix_study.datasets.ucf101 import Ucf101
    from remix_study.media.source import source_at

    how = _one_of("--flow", flow, "computed", "given")
    return Ucf101(source_at(root), split=split, lists=lists, flow=how, seed=seed)


@_command("mosei")
def _mosei(
    root: Annotated[str, typer.Option(help="The pickle that MMSA offers, or a folder (or URL) of arrays.")],
    work: Path,
    labels: Annotated[int, typer.Option(help="Classes: 2, 3 or 7.")] = 2,
) -> "Corpus":
    """CMU-MOSEI: some 22800 utterances, as features of audio, video and text."""
    from remix_study.datasets.mosei import mosei_at

    return mosei_at(root, work, labels=int(_one_of("--labels", str(labels), "2", "3", "7")))  # type: ignore[arg-type]


@_command("manifest")
def _manifest(
    table: Annotated[str, typer.Argument(help="CSV, JSON Lines or Parquet; a file, or a URL such as s3://...")],
    column: Annotated[list[str] | None, typer.Option(help="ours=theirs, such as label=emotion; several times.")] = None,
    keep: Annotated[str, typer.Option(help="Further columns that clips shall carry: a,b")] = "",
    length: Annotated[list[str] | None, typer.Option(help="Steps of a sequence: text=50; several times.")] = None,
    image: Annotated[list[str] | None, typer.Option(help="A modality whose arrays are spectrograms.")] = None,
    seed: Seed = 0,
    preset: PresetName = "tiny",
) -> "Corpus":
    """Clips of your own: a table with one line each. Unusable clips are listed with their reasons, and left out."""
    from remix_study.datasets.table import Table
    from remix_study.media.source import source_at

    root, slash, name = table.rpartition("/")
    lengths = {m: _steps(m, steps) for m, steps in _pairs("--length", length).items()}
    return Table(
        source_at(root or slash or "."), name, _preset(preset), columns=_pairs("--column", column), lengths=lengths,
        keep=tuple(each.strip() for each in keep.split(",") if each.strip()), images=tuple(image or ()), seed=seed,
    )  # fmt: skip


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    pairs = [each.partition("=") for each in given or ()]
    for name, _, value in pairs:
        if not name or not value:
            raise ConfigError(f"`{option}` must look like name=value, but is {name!r}.")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _steps(modality: str, steps: str) -> int:
    if not steps.isdigit() or int(steps) < 1:
        raise ConfigError(f"`--length {modality}` must be a number of steps, 1 or more, but is {steps!r}.")
    return int(steps)


def _one_of(option: str, given: str, *known: str) -> Any:
    if given not in known:
        raise ConfigError(f"`{option}` must be one of {', '.join(known)}, but is {given!r}.")
    return given


def _preset(name: str) -> "Preset":
    from remix_study.media.presets import preset_named

    return preset_named(name)


def _prepare(make: Callable[[], "Corpus"], how: How) -> None:
    with terminal.busy(err, "looking at the files"):
        from remix_study.datasets.corpus import prepare
        from remix_study.files.remote_folder import cache_folder
        from remix_study.files.urls import is_url, path_of
        from remix_study.media.remote_store import require_writable, upload_store

        corpus = make()
        found = corpus.find()
    if how.check:
        _check(corpus, found, how)
        return
    _warn(found)
    assert how.out is not None
    away = is_url(how.out)
    folder = cache_folder(how.out) if away else path_of(how.out)
    if away:
        require_writable(how.out)
    with terminal.bars(err) as bar:
        store = prepare(
            corpus, folder, found=found, decoder=how.decoder, workers=how.workers, timeout_s=how.timeout,
            max_bad_fraction=how.max_bad, replace=how.replace, wait=how.wait, run=_crew(),
            reading=bar("reading files"), progress=bar("decoding clips"),
        )  # fmt: skip
        if away:
            upload_store(folder, how.out, progress=bar("uploading, MB"))
    out.print(terminal.store_line(store), soft_wrap=True)
    if away:
        out.print(f"It lies at {how.out}; train on it with: --set corpus={how.out}", soft_wrap=True, highlight=False)
    for number in range(len(found.folds)):
        out.print(f"fold {number}: {how.out}/fold-{number}", soft_wrap=True, highlight=False)


def _crew() -> Any:
    """Who decodes: this machine's cores, or those of the cluster that RAY_ADDRESS names."""
    if "RAY_ADDRESS" in os.environ:
        from remix_study.launch.preparing import ray_jobs

        return ray_jobs
    from remix_study.media.workers import run_jobs

    return run_jobs


def _warn(found: "Found") -> None:
    for warning in found.warnings[:_WARNINGS_SHOWN]:
        err.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)
    if len(found.warnings) > _WARNINGS_SHOWN:
        more = len(found.warnings) - _WARNINGS_SHOWN
        err.print(f"[yellow]warning:[/yellow] and {more} more, in the store's card")
    if found.absent:
        err.print(terminal.absent_table(found))


def _check(corpus: "Corpus", found: "Found", how: How) -> None:
    from remix_study.cli.prepare_view import check_report
    from remix_study.datasets.check import check_clips
    from remix_study.media.checks import Checks

    decoder = _one_of("--decoder", how.decoder, "pyav", "decord")
    with terminal.bars(err) as bar:
        report = check_clips(
            corpus.name, found, corpus.source, corpus.preset, decoder=decoder, checks=Checks(), sample=how.sample,
            max_bad=how.max_bad, workers=how.workers, timeout_s=how.timeout, progress=bar,
        )  # fmt: skip
    if how.as_json:
        out.print_json(json.dumps(report.plain()))
    else:
        out.print(check_report(report))
    if report.problems:
        raise typer.Exit(1)
