"""`remix-study prepare`: build a clip store from a folder of media files or a URL; one command per corpus

Every command finds the clips, warns about missing or suspicious ones, and decodes them once. With `--check` it reports
without writing. If RAY_ADDRESS is set, it decodes on all cores of that Ray cluster.
"""

import dataclasses
import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from rich.markup import escape

from remix_study.cli import terminal
from remix_study.cli.common import err, out
from remix_study.errors import ConfigError

if TYPE_CHECKING:
    from remix_study.datasets.corpus import Corpus, Found
    from remix_study.media.presets import Preset

app = typer.Typer(help="Build a clip store for training from media files.", no_args_is_help=True)
_WARNINGS_SHOWN = 20
_DECODERS = ("pyav", "torchcodec", "decord")
_CHANNELS = ("mix", "left", "right", "loudest")

Root = Annotated[str, typer.Option(help="Folder or URL (s3://...) of the corpus's files.")]
Lists = Annotated[Path | None, typer.Option(help="Folder of the published lists; default: --root.")]
PresetName = Annotated[str, typer.Option(help="Format of stored clips, such as ogm or fbank1024+3x224.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of random splits.")]
# None: the recipe's, or the default
_Range = tuple[float, float] | None
_Fraction = float | None


@dataclasses.dataclass(frozen=True)
class Options:
    """The options that every `prepare` command has."""

    out: Annotated[str | None, typer.Option(help="Output folder or URL (s3://...) of the store.")] = None
    decoder: Annotated[str, typer.Option(help="Decoder: pyav, torchcodec or decord.")] = "pyav"
    channel: Annotated[str, typer.Option(help="Audio channel: mix, left, right or loudest.")] = "mix"
    workers: Annotated[int | None, typer.Option(min=1, help="Number of processes; default: one per core.")] = None
    timeout: Annotated[float, typer.Option(min=1, help="Time limit per clip, in seconds.")] = 60.0
    max_bad: Annotated[float, typer.Option(min=0, max=1, help="Largest allowed fraction of unusable clips.")] = 0.01
    replace: Annotated[bool, typer.Option("--replace", help="Replace a store built with other settings.")] = False
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another process that builds this store.")] = False
    check: Annotated[bool, typer.Option("--check", help="Check the corpus and report; write nothing.")] = False
    sample: Annotated[int, typer.Option(min=0, help="With --check: number of clips to decode.")] = 100
    as_json: Annotated[bool, typer.Option("--json", help="With --check: print JSON.")] = False

    def __post_init__(self) -> None:
        _one_of("--decoder", self.decoder, *_DECODERS)
        _one_of("--channel", self.channel, *_CHANNELS)
        if self.out is None and not self.check:
            raise ConfigError("`--out` is missing: give the folder or URL of the store, or use --check to only check.")

    def work(self) -> Path:
        """A folder for unpacked files: beside the store, or temporary for a check."""
        from remix_study.files.remote_folder import cache_folder
        from remix_study.files.scratch import scratch
        from remix_study.files.urls import is_url

        if self.out is None or self.check:
            return scratch()
        return (cache_folder(self.out) if is_url(self.out) else Path(self.out)) / "unpacked"


def _command(name: str) -> Callable[[Callable[..., "Corpus"]], Callable[..., "Corpus"]]:
    """Register a `prepare` command that is defined by a function that returns its corpus.

    The command has the function's parameters and the fields of `Options` as options. A parameter named `work` is not an
    option: it receives a folder for unpacked files.
    """

    def register(make: Callable[..., "Corpus"]) -> Callable[..., "Corpus"]:
        own = get_type_hints(make, localns={"Corpus": object}, include_extras=True)
        own.pop("return")
        unpacks = own.pop("work", None) is not None
        shared = get_type_hints(Options, include_extras=True)

        def command(**given: Any) -> None:
            options = Options(**{key: given[key] for key in shared})
            chosen = {key: given[key] for key in own}
            _prepare(lambda: make(**chosen, **({"work": options.work()} if unpacks else {})), options)

        defaults = {field.name: field.default for field in dataclasses.fields(Options)}
        parameters = [p for p in inspect.signature(make).parameters.values() if p.name in own] + [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=defaults[key], annotation=kind)
            for key, kind in shared.items()
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        command.__annotations__ = {**own, **shared}
        command.__doc__ = make.__doc__
        app.command(name)(command)
        return make

    return register


@app.command("synthetic")
def _synthetic(
    out_: Annotated[Path, typer.Option("--out", help="Output folder for clips, manifest and store.")],
    train: Annotated[int, typer.Option(help="Number of training clips.")] = 1000,
    val: Annotated[int, typer.Option(help="Number of validation clips.")] = 500,
    test: Annotated[int, typer.Option(help="Number of test clips.")] = 1000,
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 8,
    recipe: Annotated[
        str | None, typer.Option(help="Settings for an experiment: demo, muted, blind, xor or three.")
    ] = None,
    audio_snr: Annotated[
        _Range, typer.Option(help="Range of the audio signal-to-noise ratio, dB.", show_default="0 15")
    ] = None,
    video_snr: Annotated[
        _Range, typer.Option(help="Range of the video signal-to-noise ratio, dB.", show_default="-8 2")
    ] = None,
    muted: Annotated[
        _Fraction, typer.Option(help="Fraction of clips whose audio is only noise.", show_default="0.15")
    ] = None,
    blind: Annotated[
        _Fraction, typer.Option(help="Fraction of clips whose video is only noise.", show_default="0")
    ] = None,
    sensor: Annotated[
        bool | None, typer.Option("--sensor/--no-sensor", help="Render a third modality, four sensors.")
    ] = None,
    sensor_snr: Annotated[
        _Range, typer.Option(help="Range of the sensors' signal-to-noise ratio, dB.", show_default="-6 6")
    ] = None,
    sensor_off: Annotated[
        _Fraction, typer.Option(help="Fraction of clips whose sensors are only noise.", show_default="0")
    ] = None,
    interaction: Annotated[
        str | None, typer.Option(help="xor: half of the classes need all modalities; or none.", show_default="none")
    ] = None,
    label_noise: Annotated[
        _Fraction, typer.Option(help="Fraction of training clips with the label of another class.", show_default="0")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed; the same seed renders the same bytes.")] = 0,
    preset: PresetName = "tiny",
    replace: Annotated[bool, typer.Option("--replace", help="Replace a store built with other settings.")] = False,
) -> None:
    """Synthetic corpus: render clips with known classes, and decode them. Options override those of --recipe."""
    from remix_study.datasets.corpus import prepare_synthetic
    from remix_study.datasets.synthetic import spec_of

    options = {
        "audio_snr_db": audio_snr, "video_snr_db": video_snr, "muted": muted, "blind": blind, "sensor": sensor,
        "sensor_snr_db": sensor_snr, "sensor_off": sensor_off, "interaction": interaction, "label_noise": label_noise,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    spec = spec_of(recipe, train=train, val=val, test=test, classes=classes, seed=seed, **given)
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
    split: Annotated[
        str, typer.Option(help="actor (by actor), folds (cross-validation) or ogm (published).")
    ] = "actor",
    folds: Annotated[int, typer.Option(min=3, help="Number of folds for --split folds.")] = 5,
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
    """Kinetics-Sounds: 10-second clips of Kinetics actions that can be seen and heard."""
    from remix_study.datasets.kinetics_sounds import KineticsSounds
    from remix_study.media.source import source_at

    wanted = int(classes) if classes.isdigit() else Path(classes)
    return KineticsSounds(source_at(root), classes=wanted, lists=lists, preset=_preset(preset), seed=seed)


@_command("ave")
def _ave(root: Root, lists: Lists = None, preset: PresetName = "kinetics_sounds") -> "Corpus":
    """AVE: 4143 clips of 10 s, 28 classes of audio-visual events."""
    from remix_study.datasets.ave import Ave
    from remix_study.media.source import source_at

    return Ave(source_at(root), lists=lists, preset=_preset(preset))


@_command("ucf101")
def _ucf101(
    root: Root,
    split: Annotated[int, typer.Option(min=1, max=3, help="Published split: 1, 2 or 3.")] = 1,
    flow: Annotated[str, typer.Option(help="Optical flow: computed, or given as folders of images.")] = "computed",
    lists: Lists = None,
    seed: Seed = 0,
) -> "Corpus":
    """UCF-101: 13320 clips of 101 actions, as RGB frames and optical flow."""
    from remix_study.datasets.ucf101 import Ucf101
    from remix_study.media.source import source_at

    chosen = _one_of("--flow", flow, "computed", "given")
    return Ucf101(source_at(root), split=split, lists=lists, flow=chosen, seed=seed)


@_command("mosei")
def _mosei(
    root: Annotated[str, typer.Option(help="MMSA's pickle file, or a folder or URL of arrays.")],
    work: Path,
    labels: Annotated[int, typer.Option(help="Number of classes: 2, 3 or 7.")] = 2,
) -> "Corpus":
    """CMU-MOSEI: about 22800 utterances, as audio, video and text features."""
    from remix_study.datasets.mosei import mosei_at

    checked = int(_one_of("--labels", str(labels), "2", "3", "7"))
    return mosei_at(root, work, labels=checked)  # type: ignore[arg-type]  # one of the literals


@_command("manifest")
def _manifest(
    table: Annotated[str, typer.Argument(help="CSV, JSON Lines or Parquet: a file or a URL (s3://...).")],
    column: Annotated[
        list[str] | None, typer.Option(help="Map a column: ours=theirs, such as label=emotion; repeatable.")
    ] = None,
    keep: Annotated[str, typer.Option(help="Additional columns to keep: a,b")] = "",
    length: Annotated[list[str] | None, typer.Option(help="Steps of a sequence, such as text=50; repeatable.")] = None,
    image: Annotated[list[str] | None, typer.Option(help="Modality whose arrays are spectrograms; repeatable.")] = None,
    seed: Seed = 0,
    preset: PresetName = "tiny",
) -> "Corpus":
    """Your own clips: a table with one clip per row. Unusable clips are listed with reasons and skipped."""
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
            raise ConfigError(f"`{option}` must have the form name=value, but is {name!r}.")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _steps(modality: str, steps: str) -> int:
    if not steps.isdigit() or int(steps) < 1:
        raise ConfigError(f"`--length {modality}` must be an integer of at least 1, but is {steps!r}.")
    return int(steps)


def _one_of(option: str, given: str, *known: str) -> Any:
    if given not in known:
        raise ConfigError(f"`{option}` must be one of {', '.join(known)}, but is {given!r}.")
    return given


def _preset(name: str) -> "Preset":
    from remix_study.media.presets import preset_named

    return preset_named(name)


def _prepare(make: Callable[[], "Corpus"], options: Options) -> None:
    with terminal.busy(err, "finding clips"):
        from remix_study.datasets.corpus import prepare
        from remix_study.files.remote_folder import cache_folder
        from remix_study.files.urls import is_url, path_of
        from remix_study.media.remote_store import require_writable, upload_store

        corpus = make()
        found = corpus.find()
    if options.check:
        _check(corpus, found, options)
        return
    warn(found)
    assert options.out is not None
    remote = is_url(options.out)
    folder = cache_folder(options.out) if remote else path_of(options.out)
    if remote:
        require_writable(options.out)
    with terminal.bars(err) as bar:
        store = prepare(
            corpus, folder, found=found, channel=_one_of("--channel", options.channel, *_CHANNELS),
            decoder=options.decoder, workers=options.workers, timeout_s=options.timeout,
            max_bad_fraction=options.max_bad, replace=options.replace, wait=options.wait, run=_decoding_backend(),
            reading=bar("reading files"), progress=bar("decoding clips"),
        )  # fmt: skip
        if remote:
            upload_store(folder, options.out, progress=bar("uploading, MB"), again=options.replace)
    out.print(terminal.store_line(store), soft_wrap=True)
    if remote:
        uploaded = f"Uploaded to {options.out}. Train on it with: --set corpus={options.out}"
        out.print(uploaded, soft_wrap=True, highlight=False)
    for number in range(len(found.folds)):
        out.print(f"fold {number}: {options.out}/fold-{number}", soft_wrap=True, highlight=False)


def _decoding_backend() -> Any:
    """The function that runs the decoding jobs: on the cluster that RAY_ADDRESS names, otherwise on this machine."""
    if "RAY_ADDRESS" in os.environ:
        from remix_study.launch.ray_decoding import run_jobs_on_ray

        return run_jobs_on_ray
    from remix_study.media.workers import run_jobs

    return run_jobs


def warn(found: "Found") -> None:
    for warning in found.warnings[:_WARNINGS_SHOWN]:
        err.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)
    if len(found.warnings) > _WARNINGS_SHOWN:
        more = len(found.warnings) - _WARNINGS_SHOWN
        err.print(f"[yellow]warning:[/yellow] {more} more; the store's card lists all")
    if found.absent:
        err.print(terminal.absent_table(found))


def _check(corpus: "Corpus", found: "Found", options: Options) -> None:
    from remix_study.cli.prepare_view import check_report
    from remix_study.datasets.check import check_clips
    from remix_study.media.checks import Checks
    from remix_study.media.presets import with_channel

    preset = with_channel(corpus.preset, _one_of("--channel", options.channel, *_CHANNELS))
    decoder = _one_of("--decoder", options.decoder, *_DECODERS)
    with terminal.bars(err) as bar:
        report = check_clips(
            corpus.name, found, corpus.source, preset, decoder=decoder, checks=Checks(), sample=options.sample,
            max_bad=options.max_bad, workers=options.workers, timeout_s=options.timeout, progress=bar,
        )  # fmt: skip
    if options.as_json:
        out.print_json(json.dumps(report.plain()))
    else:
        out.print(check_report(report))
    if report.problems:
        raise typer.Exit(1)
