"""Commands that serve MLflow: `ui` on the loopback address, `serve` for a cluster"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.markup import escape

from remix_study.cli import terminal
from remix_study.cli.common import DEFAULT_WORKSPACE, Workspace, err, out, place
from remix_study.errors import ConfigError, TrackingError

if TYPE_CHECKING:
    from remix_study.tracking.review import Links
    from remix_study.tracking.server import MLflowServer


def ui(
    workspace: Workspace = DEFAULT_WORKSPACE,
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 5000,
    experiment: Annotated[str | None, typer.Option(help="Default: the one that was used last.")] = None,
    uri: Annotated[
        str | None,
        typer.Option(help="A tracking database or server; default: MLFLOW_TRACKING_URI, else the workspace's."),
    ] = None,
) -> None:
    """Open MLflow on the loopback address, and print links that land on the runs with columns and charts ready."""
    with terminal.busy(err, "starting MLflow"):
        from remix_study.launch.review import experiment_to_show, open_views, settle
        from remix_study.tracking.address import check, default_uri, is_server, tracking_address
        from remix_study.tracking.server import MLflowServer
    _require_no_password("--uri", uri)
    address = tracking_address(uri, workspace)
    if address == default_uri(workspace) and not (workspace / "mlflow.db").exists():
        raise ConfigError(
            f"the workspace must hold runs, but {workspace} has no mlflow.db. Run `remix-study demo` or `train` first, "
            "or name another --workspace."
        )
    check(address)
    settle(address)
    shown = experiment_to_show(address, experiment)
    if is_server(address):  # a server that runs already
        _show_links(shown, open_views(address, shown, address.rstrip("/")))
        return
    with _until_ended(), MLflowServer(address, port=port) as server:
        links = open_views(address, shown, server.url)
        _show_links(shown, links)
        _stay(server)


def serve(
    backend: Annotated[
        str | None,
        typer.Option(help="MLflow's database, such as 'postgresql+psycopg://me:$DB_PASSWORD@host/mlflow'; $NAME is "
                     "taken from the environment; default: mlflow.db in the workspace."),
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(help="Where artifacts lie: a folder, or s3://bucket/mlflow and the like. Only the server needs "
                     "credentials for it. Default: mlartifacts in the workspace."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 5000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer; 0.3 GB each.")] = 2,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="A name that clients and browsers call it by; may be given several times. This machine's own "
                     "name, loopback and private addresses are known."),
    ] = None,
    auth: Annotated[
        bool | None,
        typer.Option("--auth/--no-auth", help="Ask for MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; default: "
                     "on every address but loopback."),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:  # fmt: skip
    """MLflow's tracking server for a cluster, until Ctrl-C or SIGTERM: database, artifacts, and a password."""
    from remix_study.credentials import redact
    from remix_study.files.mirror import url_of
    from remix_study.tracking.address import default_uri
    from remix_study.tracking.server import MLflowServer, admin_from_environment, is_loopback, names_of

    _require_no_password("--backend", backend)
    if backend is None and url_of(workspace.resolve()) is not None:
        raise ConfigError(
            f"MLflow's database cannot lie at {place(workspace)}, so `--backend` must name one. For example: "
            "--backend 'postgresql+psycopg://$DB_USER:$DB_PASSWORD@host/mlflow'"
        )
    address = backend or default_uri(workspace)
    alone = is_loopback(host)
    admin = admin_from_environment() if auth or (auth is None and not alone) else None
    if admin is None and not alone:
        err.print("[yellow]anybody who reaches this address can read, change and delete everything on it[/yellow]")
    names = names_of(host, allowed_host or ())

    with _until_ended():
        with terminal.busy(err, "starting MLflow"):
            server = MLflowServer(
                address, port=port, host=host, workers=workers, artifacts=artifacts, admin=admin, names=names,
                tell=lambda line: err.print(line, markup=False, highlight=False, soft_wrap=True),
            )  # fmt: skip
            server.start()
        try:
            called = server.url if alone else f"http://{names[0]}:{server.port}"
            out.print(f"MLflow serves {redact(address)} at {called}", soft_wrap=True, highlight=False)
            out.print(f"export MLFLOW_TRACKING_URI={called}", soft_wrap=True, highlight=False)
            if admin is not None:
                out.print(f"export MLFLOW_TRACKING_USERNAME={admin.name} MLFLOW_TRACKING_PASSWORD=...", soft_wrap=True,
                          highlight=False)  # fmt: skip
            _stay(server)
        finally:
            server.stop()


@contextlib.contextmanager
def _until_ended() -> Iterator[None]:
    """A server's command ends by Ctrl-C, SIGTERM or with its terminal, and its server's processes with it."""
    from remix_study.tracking.signals import ended_by

    try:
        with ended_by(KeyboardInterrupt):
            yield
    except KeyboardInterrupt:
        err.print("the server has ended; the same command starts it again")


def _stay(server: "MLflowServer") -> NoReturn:
    err.print("Ctrl-C ends the server.")
    status = server.wait()
    raise TrackingError(f"MLflow's server must run until it is told to end, but ended by itself with status {status}.")


def _show_links(experiment: str, links: "Links") -> None:
    out.print(f"Experiment [bold]{escape(experiment)}[/bold]")
    for what, link in (("runs  ", links.table), ("charts", links.charts)):
        out.print(f"{what}  {link}", soft_wrap=True, highlight=False)


def _require_no_password(option: str, url: str | None) -> None:
    from remix_study.credentials import holds_password, redact

    if url is not None and holds_password(url):
        raise ConfigError(
            f"`{option}` must not hold a password, which every user of this machine could read, but is {redact(url)}. "
            "Write $DB_PASSWORD in its place, in single quotes, and set that in the environment."
        )
