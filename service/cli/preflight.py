"""Checks and reports of a start: before a socket is served, and once the models are settled."""

from __future__ import annotations

import ipaddress
import socket

import click

from lipmodel.errors import LipcertError
from service.components import Service
from service.models.registry import Registry
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
