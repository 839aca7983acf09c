"""The commands ``lipserve keys``: API keys of callers, and keys that sign certificates."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from lipmodel.errors import LipcertError
from service.auth.api_keys import KeyStore
from service.auth.scopes import Scope
from service.settings import Settings


@contextmanager
def _store(settings: Settings) -> Iterator[KeyStore]:
    """Open the store of API keys, which a running server may be using too."""
    try:
        with closing(KeyStore.beside_jobs(settings)) as store:
            yield store
    except LipcertError as error:
        raise click.ClickException(str(error)) from None


@click.group()
def keys() -> None:
    """Manage API keys, and keys that sign certificates.

    API keys are stored with the jobs: pass the server's --state, --models or --database before `keys`, or set
    the same environment variables. A running server applies changes within about a second.
    """


@keys.command()
@click.option("--name", required=True, help="Name of the key's owner, for display.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope]),
    multiple=True,
    required=True,
    help="Scope of the key; may be repeated. admin includes all others.",
)
@click.option(
    "--expires",
    type=click.FloatRange(min=0, min_open=True),
    metavar="DAYS",
    help="Lifetime of the key, in days.",
)
@click.pass_obj
def create(settings: Settings, name: str, scopes: tuple[str, ...], expires: float | None) -> None:
    """Create an API key and print it; it cannot be shown again."""
    if not 0 < len(name) <= 128 or not name.isprintable():
        raise click.UsageError("--name takes 1 to 128 printable characters")
    with _store(settings) as store:
        click.echo(store.create(name, [Scope(scope) for scope in scopes], expires))
    click.echo(
        "This key is shown only once. From now on the service requires a credential for every request.",
        err=True,
    )


@keys.command("list")
@click.pass_obj
def list_keys(settings: Settings) -> None:
    """List all API keys and their state, without secrets."""
    with _store(settings) as store:
        for key in store.all():
            expiry = "never expires" if key.expires is None else f"expires {_day(key.expires)}"
            scopes = ",".join(sorted(key.scopes))
            click.echo(
                f"{key.id}  {key.state:8}  {scopes}  created {_day(key.created)}, {expiry}  {key.name}"
            )


@keys.command()
@click.argument("key_id", metavar="ID")
@click.pass_obj
def revoke(settings: Settings, key_id: str) -> None:
    """Revoke the API key with that ID."""
    with _store(settings) as store:
        if not store.revoke(key_id):
            raise click.ClickException(
                f"no valid key has the id '{key_id}'; 'lipserve keys list' shows all keys"
            )
    click.echo(f"revoked {key_id}", err=True)


@keys.command("new-signing")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def new_signing(file: Path) -> None:
    """Create a key that signs certificates, and put it first in FILE, which is created if missing.

    Older keys in FILE keep their public parts, so that their signatures can still be verified. A server with
    --signing-keys FILE publishes the new key within a second and signs with it after ten minutes, when no
    consumer's copy of the published keys is older; until then the previous key, if any, signs.
    """
    from lipmodel.signed.key_sets import add_signing_key

    try:
        kid = add_signing_key(file)
    except LipcertError as error:
        raise click.ClickException(str(error)) from None
    click.echo(kid)


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(min(seconds, time.time() + 1e10), UTC).strftime("%Y-%m-%d %H:%M")
