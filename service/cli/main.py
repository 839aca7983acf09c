"""The command ``lipserve``."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

import click

from lipmodel import __version__
from lipmodel.errors import LipcertError
from service.cli.keys import keys
from service.cli.options import options, read_settings, variable
from service.cli.preflight import open_server
from service.cli.supervisor import Supervisor
from service.http.server import listen, listen_together, url_of
from service.models.writer import sweep
from service.settings import Settings
from service.telemetry import logs


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@options
@click.option(
    "--config",
    metavar="FILE",
    envvar=variable("config"),
    help=f"TOML file of settings; flags and variables override it.  [environment: {variable('config')}]",
)
@click.version_option(__version__, prog_name="lipserve")
@click.pass_context
def main(context: click.Context, /, config: str | None, **flags: str | None) -> None:
    """Serve the ONNX models of a folder, each prediction with its certified radius."""
    context.obj = read_settings(flags, config)
    if context.invoked_subcommand is None:
        serve(context.obj)


main.add_command(keys)


def require_folders(settings: Settings) -> None:
    """Refuse folders that do not exist: misspelt or not mounted, they would serve nothing.

    Raises:
        click.UsageError: names the folder and its setting.
    """
    made = settings.models_url is not None  # the models folder, when models are copied into it
    for name, folder in (("models", None if made else settings.models), ("data", settings.data)):
        if folder is not None and not os.path.isdir(folder):
            raise click.UsageError(f"--{name}: the folder {folder} does not exist; make it or name another")


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        click.ClickException: the settings cannot be followed here; gives the reason.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # while models load; then the server handles both
        signal.signal(number, lambda *_: sys.exit(0))
    logs.set_up(settings.log_format)
    require_folders(settings)
    sweep(settings.models)
    try:
        if settings.workers > 1:
            sockets = listen_together(settings.host, settings.port, settings.workers)
            asyncio.run(Supervisor(settings, sockets).run())
        else:
            serve_here(settings, listen(settings.host, settings.port))
    except LipcertError as error:
        raise click.ClickException(str(error)) from None


def serve_here(settings: Settings, sock: socket.socket) -> None:
    """Serve in this process."""
    with sock:
        url = url_of(sock)
        server = open_server(settings, sock, lambda line: click.echo(line.format(url=url, workers="")))
        server.run(sockets=[sock])
