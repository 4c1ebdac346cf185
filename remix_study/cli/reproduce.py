"""`remix-study reproduce`: repeat a published protocol, and set the result beside published values

Heavy imports are inside the command, so that `--help` and usage errors take no time.
"""

from typing import Annotated

import typer

from remix_study.cli import terminal
from remix_study.cli.common import DEFAULT_WORKSPACE, Workspace, err, out
from remix_study.cli.prepare import Lists, Root, warn
from remix_study.cli.study import show


def reproduce(
    protocol: Annotated[str, typer.Argument(help="cremad or kinetics_sounds.")],
    root: Root,
    lists: Lists = None,
    methods: Annotated[str, typer.Option(help="Added methods to run alone and with Remix: a,b")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per method.")] = 5,
    ceilings: Annotated[bool, typer.Option("--ceilings", help="Also train each modality alone.")] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change the recipe, e.g. epochs=30; repeatable. The report says so."),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Format of stored clips; default: that of the protocol.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Check clips and lists; train nothing.")] = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Repeat a published protocol with the released recipe, and set the result beside published values."""
    with terminal.busy(err, "finding clips"):
        from remix_study.reproduction import find_published, reproduction_study, run_reproduction
        from remix_study.study.storage import study_folder

        names = [name.strip() for name in methods.split(",") if name.strip()]
        changed = [*(changes or ()), *([] if preset is None else [f"preset={preset}"])]
        study = reproduction_study(protocol, names, seeds, ceilings=ceilings, changes=changes or ())
        corpus, found = find_published(protocol, root, lists, preset)
    warn(found)
    out.print(f"The lists are the published ones: {len(found.listed)} clips, {len(found.absent)} without a file.")
    if check:
        return
    with terminal.bars(err) as bar, terminal.live_study(err, study_folder(workspace.resolve(), study.name)) as watch:
        result, folder = run_reproduction(
            study, protocol, found, corpus, workspace, watch, bar("decoding clips"), changed
        )
    show(result, folder, workspace)
    if result is not None:
        from remix_study.report.published import published_sentence, published_table, reproduction_of

        of = reproduction_of(folder)
        assert of is not None
        out.print(terminal.plain_table(published_table(result, of)))
        out.print(published_sentence(result, of))
    from remix_study.study.ledger import read_ledger
    from remix_study.study.results import require_every_method

    require_every_method(result, read_ledger(folder))
