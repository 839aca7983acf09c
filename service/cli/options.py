"""Settings from flags, the environment and a file, all derived from the fields of ``Settings``."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import ValidationError

from service.settings import ENVIRONMENT_PREFIX, Settings

CONFIG = "config"
"""Name of the settings file, which is a flag and a variable but no field of ``Settings``."""
KUBERNETES_VARIABLE = re.compile(
    r"LIPSERVE_(\w+_)?(SERVICE_HOST=.*|SERVICE_PORT(_\w+)?=\d+|PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://.*"
    r"|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)=.*)"
)
"""Variables that Kubernetes sets in pods beside a Kubernetes service with a name beginning with lipserve."""


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return ENVIRONMENT_PREFIX + name.upper()


def options(command: Any) -> Any:
    """Add to a command a flag for each setting."""
    for name, field in reversed(Settings.model_fields.items()):
        default = "" if field.default in (None, False) else f"default: {field.default}; "
        kind = (get_args(field.annotation) or (field.annotation,))[0]
        given: dict[str, Any] = {"metavar": getattr(kind, "__name__", "WORD").upper()}
        if kind is bool:
            given = {"is_flag": True, "flag_value": "true", "type": str}
        command = click.option(
            _flag(name),
            name,
            default=None,
            help=f"{field.description}  [{default}environment: {variable(name)}]",
            **given,
        )(command)
    return command


def read_settings(flags: Mapping[str, str | None], file: str | None = None) -> Settings:
    """Return the settings from flags, the environment, a TOML file, and the defaults, in that order.

    Raises:
        click.UsageError: a value is invalid, or a setting unknown; names the flag, variable or file.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    variables = {
        name.upper()
        for name, value in os.environ.items()
        if value and not KUBERNETES_VARIABLE.fullmatch(f"{name}={value}")
    }
    for name in sorted(variables):
        if name.startswith(ENVIRONMENT_PREFIX):
            _check_name(name.removeprefix(ENVIRONMENT_PREFIX).lower(), name, variable)
    kept = {} if file is None else _read_file(Path(file))
    kept = {name: value for name, value in kept.items() if variable(name) not in variables}
    # Else the port would be read from the environment, where Kubernetes may have set it.
    if variable("port") not in variables:
        kept.setdefault("port", str(Settings.model_fields["port"].default))
    try:
        return Settings(**(kept | given))  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        origin = _flag(name) if name in given else f"{name} in {file}" if name in kept else variable(name)
        raise click.UsageError(f"{origin} is '{first['input']}'. {first['msg']}.") from None


def _check_name(name: str, found: str, spelt: Callable[[str], str], source: str = "") -> None:
    """Refuse an unknown setting: a misspelt limit would not hold.

    Args:
        name: supposed name of a setting.
        found: the name as written in its source.
        spelt: function from the name of a setting to its spelling in that source.
        source: description of the source, as a suffix.
    """
    known = [*Settings.model_fields, CONFIG]
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean '{spelt(near[0])}'?" if near else "lipserve --help lists the settings"
        raise click.UsageError(f"Unknown setting '{found}'{source} ({hint})")


def _read_file(path: Path) -> dict[str, str]:
    """Return the settings of a TOML file by name, each as the text of a flag."""
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise click.UsageError(f"cannot read the settings file {path}: {reason}") from None
    for name, value in found.items():
        _check_name(name, name, str, f" in {path}")
        if not isinstance(value, str | int | float):
            raise click.UsageError(f"{name} in {path} is not a string, number or boolean")
    return {name: str(value) for name, value in found.items()}
