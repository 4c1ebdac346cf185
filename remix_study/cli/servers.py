"""Commands that start an MLflow server: `ui` for this machine, `serve` for a cluster"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.markup import escape

from remix_study.cli import terminal
from remix_study.cli.common import DEFAULT_WORKSPACE, Workspace, err, out, place
from remix_study.errors import ConfigError, TrackingError
from remix_study.files.command_line import own_command

if TYPE_CHECKING:
    from remix_study.tracking.review import Links
    from remix_study.tracking.server import MLflowServer


def ui(
    workspace: Workspace = DEFAULT_WORKSPACE,
    port: Annotated[int, typer.Option(help="Port; 0 for any free one.")] = 5000,
    experiment: Annotated[str | None, typer.Option(help="Experiment to show; default: the last one used.")] = None,
    uri: Annotated[
        str | None,
        typer.Option(help="Tracking database or server; default: MLFLOW_TRACKING_URI, then the workspace's."),
    ] = None,
) -> None:
    """Start MLflow's UI on 127.0.0.1, and print links to the runs with columns and charts set up."""
    with terminal.busy(err, "starting MLflow"):
        from remix_study.launch.mlflow_ui import close_abandoned_runs, experiment_to_show, share_experiment_view
        from remix_study.tracking.address import check, default_uri, is_server, tracking_address
        from remix_study.tracking.server import MLflowServer
    _require_no_password("--uri", uri)
    address = tracking_address(uri, workspace)
    if address == default_uri(workspace) and not (workspace / "mlflow.db").exists():
        raise ConfigError(
            f"No runs in workspace {workspace}: mlflow.db does not exist. Run a study first, for example "
            f"`{own_command('demo', workspace=workspace)}`, or use another --workspace."
        )
    check(address)
    close_abandoned_runs(address)
    shown = experiment_to_show(address, experiment)
    if is_server(address):  # it is running already
        _show_links(shown, share_experiment_view(address, shown, address.rstrip("/")))
        return
    with _until_ended(), MLflowServer(address, port=port) as server:
        links = share_experiment_view(address, shown, server.url)
        _show_links(shown, links)
        _stay(server)


def serve(
    backend: Annotated[
        str | None,
        typer.Option(help="URL of MLflow's database. $NAME is read from the environment. Default: mlflow.db in the "
                     "workspace."),
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(help="Folder or URL (s3://bucket/mlflow) for artifacts. Only the server needs credentials for it. "
                     "Default: mlartifacts in the workspace."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all interfaces.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any free one.")] = 5000,
    workers: Annotated[int, typer.Option(min=1, help="Number of server processes; 0.3 GB each.")] = 2,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Host name that clients use; repeatable. This machine's name, loopback and private addresses "
                     "are always allowed."),
    ] = None,
    auth: Annotated[
        bool | None,
        typer.Option("--auth/--no-auth", help="Require the user and password in MLFLOW_TRACKING_USERNAME and "
                     "MLFLOW_TRACKING_PASSWORD. Default: yes, unless --host is a loopback address."),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:  # fmt: skip
    """Run an MLflow tracking server for a cluster, with database, artifacts and password, until Ctrl-C or SIGTERM."""
    from remix_study.credentials import redact
    from remix_study.files.mirror import url_of
    from remix_study.tracking.address import default_uri
    from remix_study.tracking.server import MLflowServer, admin_from_environment, is_loopback, names_of

    _require_no_password("--backend", backend)
    if backend is None and url_of(workspace.resolve()) is not None:
        raise ConfigError(
            f"Workspace {place(workspace)} cannot hold MLflow's database. Give one with --backend, for example: "
            "--backend 'postgresql+psycopg://$DB_USER:$DB_PASSWORD@host/mlflow'"
        )
    address = backend or default_uri(workspace)
    alone = is_loopback(host)
    admin = admin_from_environment() if auth or (auth is None and not alone) else None
    if admin is None and not alone:
        err.print(
            "[yellow]warning:[/yellow] no password: anyone who reaches this address can change and delete all runs"
        )
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
    """End the block, and with it the server, on Ctrl-C, SIGTERM or when the terminal closes."""
    from remix_study.tracking.signals import raise_on_termination

    try:
        with raise_on_termination(KeyboardInterrupt):
            yield
    except KeyboardInterrupt:
        err.print("Server stopped. Rerun the command to start it again.")


def _stay(server: "MLflowServer") -> NoReturn:
    err.print("Press Ctrl-C to stop the server.")
    status = server.wait()
    raise TrackingError(f"MLflow's server ended unexpectedly with exit status {status}. Its messages are above.")


def _show_links(experiment: str, links: "Links") -> None:
    out.print(f"Experiment [bold]{escape(experiment)}[/bold]")
    for what, link in (("runs  ", links.table), ("charts", links.charts)):
        out.print(f"{what}  {link}", soft_wrap=True, highlight=False)


def _require_no_password(option: str, url: str | None) -> None:
    from remix_study.credentials import holds_password, redact

    if url is not None and holds_password(url):
        raise ConfigError(
            f"`{option}` contains a password, which every user of this machine could read: {redact(url)}. Replace it "
            "with $DB_PASSWORD, in single quotes, and set that variable in the environment."
        )
