"""``lipserve keys``: who may call the service, and what it signs with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from lipmodel.errors import LipcertError
from service.auth.api_keys import KeyStore
from service.auth.scopes import Scope
from service.settings import Settings


@contextmanager
def _store(settings: Settings) -> Iterator[KeyStore]:
    """The keys, while a server may be using them too."""
    try:
        store = KeyStore.beside_jobs(settings)
        try:
            yield store
        finally:
            store.close()
    except LipcertError as error:
        raise click.ClickException(str(error)) from None


@click.group()
def keys() -> None:
    """Keys of callers, and keys that certificates are signed with.

    Callers' keys are kept beside the jobs: give the server's --state, --models or --database before `keys`,
    or set its variables of the environment. A running server takes notice within about a second.
    """


@keys.command()
@click.option("--name", required=True, help="Whose key it is, for people.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope]),
    multiple=True,
    required=True,
    help="What it may do; may be repeated. admin includes all others.",
)
@click.option("--expires", type=click.FloatRange(min=0, min_open=True), metavar="DAYS", help="When it ends.")
@click.pass_obj
def create(settings: Settings, name: str, scopes: tuple[str, ...], expires: float | None) -> None:
    """Makes a key and prints it, this once."""
    if not 0 < len(name) <= 128 or not name.isprintable():
        raise click.UsageError("--name takes 1 to 128 printable characters")
    with _store(settings) as store:
        click.echo(store.create(name, [Scope(scope) for scope in scopes], expires))
    click.echo("This is shown once. From now on the service takes no request without a key.", err=True)


@keys.command("list")
@click.pass_obj
def list_keys(settings: Settings) -> None:
    """Shows the keys that there are and were, without their secrets."""
    with _store(settings) as store:
        for key in store.all():
            ends = "never ends" if key.expires is None else f"ends {_day(key.expires)}"
            scopes = ",".join(sorted(key.scopes))
            click.echo(f"{key.id}  {key.state:8}  {scopes}  made {_day(key.created)}, {ends}  {key.name}")


@keys.command()
@click.argument("key_id", metavar="ID")
@click.pass_obj
def revoke(settings: Settings, key_id: str) -> None:
    """Ends the key of that ID for good."""
    with _store(settings) as store:
        if not store.revoke(key_id):
            raise click.ClickException(f"no valid key has the id '{key_id}'; lipserve keys list shows them")
    click.echo(f"revoked {key_id}", err=True)


@keys.command("new-signing")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def new_signing(file: Path) -> None:
    """Makes a key to sign certificates with and puts it first in FILE, which is made if there is none.

    Of the keys in it the public parts stay, so that what they signed can still be verified. A server whose
    --signing-keys is FILE publishes the new key within a second and signs with it after ten minutes, when no
    consumer's copy of the published keys is older; until then it signs with the key before, if there is one.
    """
    from lipmodel.signed.key_sets import add_signing_key

    try:
        kid = add_signing_key(file)
    except LipcertError as error:
        raise click.ClickException(str(error)) from None
    click.echo(kid)


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(min(seconds, time.time() + 1e10), UTC).strftime("%Y-%m-%d %H:%M")
