"""Recipes: everything that decides a training, read strictly from TOML.

A recipe is written for l2; a table ``[norm.1]`` or ``[norm.inf]`` holds what differs in that norm.
Settings (``training.epochs=3``) come last and change one key each. An unknown key is an error that
names the nearest known one: nothing is silently ignored.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from lipmodel.data.dataset import SCALINGS
from lipmodel.errors import RecipeError
from lipmodel.norms import Norm
from lipmodel.training.losses import LOSSES, Loss
from lipmodel.training.schedule import Schedule

CONSTRAINTS = ("orthogonal", "rows")
KEYS = ("data", "seed", "lipschitz", "epsilons", "scaling", "network", "loss", "training")
ACTIVATIONS = ("maxmin", "groupsort", "fullsort", "absolute", "householder", "n-activation", "relu")
BODIES = ("dense", "convolutional")
HEADS = ("linear", "normalised", "prototypes")

Part = TypeVar("Part")


@dataclass(frozen=True)
class NetworkRecipe:
    """A network.

    Attributes:
        widths: units of each hidden layer, or channels of each convolutional block; none for a head alone.
        constraint: "orthogonal" (Stiefel; l2 only) or "rows" (row norms; any norm).
        activation: one of ``ACTIVATIONS``; "groupsort" with exactly one of the next two.
        group_size: units a group.
        number_of_groups: groups a layer.
        body: what the hidden layers are, "dense" or "convolutional" (images; orthogonal only).
        head: "linear", "normalised" (rows of one norm), or "prototypes" with the next.
        prototypes: scores a class; they start at the k-means of each class.
        dropout: of own prototypes in training, see ``PrototypeHead``.
        components: principal components of the training part that the body begins with, l2 only; 0 for
            the inputs themselves.
    """

    widths: tuple[int, ...]
    constraint: str
    activation: str = "maxmin"
    group_size: int | None = None
    number_of_groups: int | None = None
    body: str = "dense"
    head: str = "linear"
    prototypes: int | None = None
    dropout: float = 0.0
    components: int = 0

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.widths):
            raise RecipeError(f"network.widths = {list(self.widths)}; widths of at least 1 are accepted")
        _check_choice("network.constraint", self.constraint, CONSTRAINTS)
        _check_choice("network.activation", self.activation, ACTIVATIONS)
        _check_choice("network.body", self.body, BODIES)
        _check_choice("network.head", self.head, HEADS)
        if self.body == "convolutional" and (self.constraint != "orthogonal" or not self.widths):
            raise RecipeError(
                "network.body 'convolutional' takes the constraint 'orthogonal' and at least one width"
            )
        if self.activation == "householder" and self.constraint != "orthogonal":
            raise RecipeError(
                "network.activation 'householder' turns pairs, which keeps l2 alone; it takes the "
                "constraint 'orthogonal'"
            )
        if (self.head == "prototypes") != (self.prototypes is not None and self.prototypes >= 1):
            raise RecipeError(
                f"network.head '{self.head}' with network.prototypes = {self.prototypes}; "
                "'prototypes' takes a number of at least 1, the others none"
            )
        if self.dropout and self.head != "prototypes":
            raise RecipeError(f"network.dropout is of prototypes; network.head '{self.head}' takes none")
        if self.components < 0 or (self.components and self.body == "convolutional"):
            raise RecipeError(
                f"network.components = {self.components} before a {self.body} body; "
                "0, or a number before a dense one, is accepted"
            )
        given = sum(value is not None for value in (self.group_size, self.number_of_groups))
        if given != (self.activation == "groupsort"):
            raise RecipeError(
                "network.activation 'groupsort' takes exactly one of group_size and number_of_groups, "
                f"the others neither; '{self.activation}' has {given}"
            )


@dataclass(frozen=True)
class Recipe:
    """A training, decided to the last detail.

    Attributes:
        name: of the recipe; also of the files written.
        data: name of the data set, see ``lipmodel.data.load.load_parts``.
        norm: of the input, in which radii are.
        lipschitz: bound on every score, in that norm.
        seed: of initial weights and of the order of batches.
        network, loss, training: the parts.
        epsilons: where certified accuracy is reported, in that norm.
        scaling: what inputs are divided by first, inside the network: see ``scaling.py``. Parameters
            of the loss are in those units; radii and epsilons are in the units of what is sent.
    """

    name: str
    data: str
    norm: Norm
    lipschitz: float
    seed: int
    network: NetworkRecipe
    loss: Loss
    training: Schedule
    epsilons: tuple[float, ...]
    scaling: str = "none"

    def __post_init__(self) -> None:
        _check_choice("scaling", self.scaling, SCALINGS)
        if not 0.0 < self.lipschitz < math.inf:
            raise RecipeError(
                f"a Lipschitz constant of {self.lipschitz} makes no sense; a positive number is accepted"
            )
        if self.network.constraint == "orthogonal" and self.norm is not Norm.TWO:
            raise RecipeError(
                f"orthogonal weights bound l2 only; for {self.norm.symbol} the constraint 'rows' is accepted"
            )
        if self.network.components and self.norm is not Norm.TWO:
            raise RecipeError(
                f"principal components keep l2 only; for {self.norm.symbol} 0 components are accepted"
            )
        if self.seed < 0:
            raise RecipeError(f"a seed of {self.seed} makes no sense; 0, 1, 2, … are accepted")
        if any(not 0.0 < e < math.inf for e in self.epsilons):
            raise RecipeError(f"epsilons = {list(self.epsilons)}; positive numbers are accepted")

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        name = next(name for name, kind in LOSSES.items() if isinstance(self.loss, kind))
        return asdict(self) | {"norm": self.norm.value, "loss": {"name": name, **asdict(self.loss)}}

    def to_toml(self) -> str:
        """As the text of a recipe that reads as this one, for its norm."""
        tables = self.to_dict()
        del tables["name"], tables["norm"]
        plain = {key: value for key, value in tables.items() if not isinstance(value, dict)}
        blocks = [_lines(plain)]
        blocks += [f"[{key}]\n" + _lines(value) for key, value in tables.items() if isinstance(value, dict)]
        return "\n".join(blocks)


def _lines(table: Mapping[str, Any]) -> str:
    """Keys with values; JSON's numbers, strings and arrays are TOML's too."""
    given = {key: value for key, value in table.items() if value is not None}
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in given.items())


def recipe_names() -> list[str]:
    """Names of the recipes there are."""
    return sorted(f.name.removesuffix(".toml") for f in _folder().iterdir() if f.name.endswith(".toml"))


def load_recipe(
    name: str,
    *,
    norm: str | int | None = None,
    lipschitz: float | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Recipe:
    """A recipe by name or from a file, with what is given in place of what it says.

    Args:
        name: one of :func:`recipe_names`, or the path of a ``.toml`` file of your own.
        norm: any name that ``Norm.parse`` accepts; l2 by default.
        lipschitz: bound on every score; short for the setting of that name.
        seed: of the training; likewise.
        epochs: passes over the data; short for the setting training.epochs.
        settings: dotted keys to values, such as ``training.epochs`` to 3; see :func:`parse_settings`.

    Raises:
        RecipeError: unknown recipe or norm, an unknown key, or a value that makes no sense.
    """
    short = {"lipschitz": lipschitz, "seed": seed, "training.epochs": epochs}
    given = {key: value for key, value in short.items() if value is not None}
    norm = Norm.TWO if norm is None else norm
    return parse_recipe(*_read(name), norm=norm, settings=given | dict(settings or {}))


def parse_settings(assignments: Iterable[str]) -> dict[str, Any]:
    """``KEY=VALUE`` pairs to dotted keys and values; values are TOML, a bare word is a string.

    Raises:
        RecipeError: no equals sign, a value that is not TOML, or a key given twice.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not (key and equals and text):
            raise RecipeError(f"the setting '{assignment}' is not understood; KEY=VALUE is accepted")
        if key in settings:
            raise RecipeError(f"{key} is set twice; one value is accepted")
        try:
            (settings[key],) = tomllib.loads(f"value = {text}").values()
        except (tomllib.TOMLDecodeError, ValueError):
            if not text.replace("-", "").replace("_", "").isalnum():
                raise RecipeError(
                    f"the value of {key}, {text}, is not TOML; 3, 0.5, word or [64, 64] are accepted"
                ) from None
            settings[key] = text
    return settings


def parse_recipe(
    text: str, name: str, *, norm: str | int = Norm.TWO, settings: Mapping[str, Any] | None = None
) -> Recipe:
    """A recipe from TOML, as it stands for the norm given and with settings in place of what it says.

    Setting ``loss.name`` to another loss leaves out the parameters of the one it replaces.

    Raises:
        RecipeError: not TOML, a key that is missing, unknown or of the wrong type, a value that
            makes no sense; names the key, and for an unknown one the nearest there is.
    """
    chosen = _norm(norm)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {name} is not TOML: {error}") from error
    for key, variant in _table({"norm": table.pop("norm", {})}, "norm").items():
        if _norm(key) is chosen:
            table = _overlay(table, variant, f"norm.{key}")
    table = _with_settings(table, settings or {})
    _check_keys("", table, KEYS)
    loss = dict(_table(table, "loss"))
    kind = loss.pop("name", None)
    _check_choice("loss.name", kind, list(LOSSES))
    return Recipe(
        name=name,
        data=_value("data", table.get("data"), str),
        norm=chosen,
        lipschitz=_value("lipschitz", table.get("lipschitz", 1.0), float),
        seed=_value("seed", table.get("seed", 0), int),
        network=_part("network", NetworkRecipe, _table(table, "network")),
        loss=_part("loss", LOSSES[str(kind)], loss),
        training=_part("training", Schedule, _table(table, "training")),
        epsilons=_value("epsilons", table.get("epsilons"), tuple[float, ...]),
        scaling=_value("scaling", table.get("scaling", "none"), str),
    )


def _norm(value: object) -> Norm:
    try:
        return Norm.parse(value)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def _read(name: str) -> tuple[str, str]:
    """The text of a recipe and its name."""
    if name.endswith(".toml"):
        try:
            return Path(name).read_text(encoding="utf-8"), Path(name).stem
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise RecipeError(f"the recipe {name} cannot be read: {reason}") from error
    if name not in recipe_names():
        raise RecipeError(_unknown("recipe", name, recipe_names()))
    return (_folder() / f"{name}.toml").read_text(encoding="utf-8"), name


def _with_settings(table: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The table with each dotted key set."""
    nested: dict[str, Any] = {}
    for dotted, value in settings.items():
        top, _, key = dotted.partition(".")
        if key:
            nested.setdefault(top, {})[key] = value
        elif isinstance(value, dict) or top in ("network", "loss", "training"):
            raise RecipeError(f"'{dotted}' is a table; set its keys one by one, as training.epochs=3")
        else:
            nested[top] = value
    loss = table.get("loss")
    if isinstance(loss, dict) and nested.get("loss", {}).get("name", loss.get("name")) != loss.get("name"):
        table = table | {"loss": {}}
    return _overlay(table, nested, "the settings")


def _folder() -> Any:
    return resources.files("lipmodel.training") / "recipes"


def _overlay(base: dict[str, Any], over: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The base with what differs; a table in it is overlaid in turn."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) != isinstance(base.get(key, value), dict):
            raise RecipeError(
                f"{where}.{key} is a table in one place and a value in the other; one kind is accepted"
            )
        result[key] = (
            _overlay(base.get(key, {}), value, f"{where}.{key}") if isinstance(value, dict) else value
        )
    return result


def _table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key)
    if not isinstance(value, dict):
        raise RecipeError(
            f"the table [{key}] is missing" if value is None else f"{key} = {value!r} should be a table"
        )
    return value


def _part(where: str, kind: type[Part], table: Mapping[str, Any]) -> Part:
    """A dataclass from a table, each value of the type the dataclass declares."""
    hints = get_type_hints(kind)
    declared = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    _check_keys(where, table, declared)
    values = {key: _value(f"{where}.{key}", value, hints[key]) for key, value in table.items()}
    try:
        return kind(**values)
    except TypeError as error:
        missing = [key for key in declared if key not in table]
        raise RecipeError(f"the table [{where}] lacks one of {', '.join(missing)}") from error


def _value(where: str, value: Any, kind: Any) -> Any:
    """The value, if it is of that type; whole numbers pass for numbers, arrays for tuples."""
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise RecipeError(f"{where} = {value!r}; an array is accepted")
        return tuple(_value(where, entry, get_args(kind)[0]) for entry in value)
    accepted = [k for k in get_args(kind) or (kind,) if k is not type(None)]
    if float in accepted and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, tuple(accepted)):
        raise RecipeError(f"{where} = {value!r}; a value of type {accepted[0].__name__} is accepted")
    return value


def _check_keys(where: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    for key in table:
        if key not in known:
            raise RecipeError(
                _unknown("key", f"{where}.{key}".lstrip("."), [f"{where}.{k}".lstrip(".") for k in known])
            )


def _check_choice(where: str, value: Any, choices: Iterable[str]) -> None:
    if value not in choices:
        raise RecipeError(_unknown(where, str(value), choices))


def _unknown(what: str, value: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(value, list(known), n=1)
    hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
    return f"unknown {what} '{value}'{hint}; {', '.join(known)} are accepted"
