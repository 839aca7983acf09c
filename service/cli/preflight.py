"""The start of a serving process: checks before it serves, and reports once its models are loaded."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path

import click

from lipmodel.errors import LipcertError
from service.app import create_app
from service.components import Service
from service.http.server import Server, end_process
from service.models.registry import Registry
from service.settings import Settings
from service.startup import configure_memory, freeze_loaded_objects
from service.telemetry import logs


class UnauthenticatedExposureError(LipcertError):
    """Refuse to listen on a non-loopback address without authentication."""


def refuse_exposure(service: Service, sock: socket.socket) -> None:
    """Require authentication, or the setting ``no_auth``, for a socket that other machines can reach.

    Raises:
        UnauthenticatedExposureError: neither is the case.
    """
    address = sock.getsockname()[0]
    allowed = service.authenticator.required or service.settings.no_auth
    if not (allowed or ipaddress.ip_address(address).is_loopback):
        raise UnauthenticatedExposureError(
            f"{address} is reachable from other machines, and no authentication is configured: create a key "
            "with 'lipserve keys create', accept tokens with --jwt-jwks, or pass --no-auth"
        )


def report_refusals(service: Service) -> None:
    """Print each refused model file with the reason to standard error."""
    registry = service.registry
    lines = [f"{service.settings.models / name} is refused: {why}" for name, why in registry.refused.items()]
    if registry.fault:
        lines.append(f"{service.settings.models}: {registry.fault}")
    for line in lines:
        click.echo(logs.printable(f"lipserve: {line}"), err=True)


def ready_line(registry: Registry) -> str:
    """Return the line that scripts wait for, with places for ``url`` and ``workers``."""
    models = f"models served: {len(registry.defaults)}, refused: {len(registry.refused)}"
    if registry.checking:
        models += f", being checked: {registry.checking}"
    if not registry.models:
        models = "no models yet"
    return f"lipserve: ready at {{url}} ({models}{{workers}}; see {{url}}/docs)"


def open_server(
    settings: Settings,
    sock: socket.socket,
    announce: Callable[[str], None],
    *,
    worker: int = 0,
    metrics_folder: Path | None = None,
) -> Server:
    """Return the server of this process, which announces its ready line once its models are settled.

    Args:
        settings: settings of the service.
        sock: listening socket that the server will serve.
        announce: called once.
        worker: number of this process; the first also prints refused models.
        metrics_folder: folder for metrics shared between processes; None for a single process.

    Raises:
        LipcertError: the settings cannot be followed here; gives the reason.
    """
    app = create_app(settings, worker=worker, metrics_folder=metrics_folder)
    service = app.state.service
    refuse_exposure(service, sock)
    configure_memory(settings.state_folder)

    def ready() -> None:
        freeze_loaded_objects()
        if worker == 0:
            report_refusals(service)
        announce(ready_line(service.registry))

    return Server(app, settings, ready, end_process)
