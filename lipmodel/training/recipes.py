"""Recipes: the complete configuration of a training, read strictly from TOML.

A recipe is written for l2; a table ``[norm.1]`` or ``[norm.inf]`` holds the differences for that norm.
Settings (``training.epochs=3``) are applied last and change one key each. An unknown key is an error that
names the nearest known key: nothing is silently ignored.
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

CONSTRAINTS = ("orthogonal", "rows")
KEYS = ("data", "seed", "lipschitz", "epsilons", "scaling", "network", "loss", "training")
ACTIVATIONS = ("maxmin", "groupsort", "fullsort", "absolute", "householder", "n-activation", "relu")
BODIES = ("dense", "convolutional")
HEADS = ("linear", "normalised", "prototypes")
AVERAGINGS = ("none", "uniform", "exponential")
MAX_NUMBER = 1e6  # far below the numbers for which the optimiser's arithmetic overflows

Part = TypeVar("Part")


@dataclass(frozen=True)
class NetworkRecipe:
    """The [network] table of a recipe.

    Attributes:
        widths: units of each hidden layer, or channels of each convolutional block; empty for a head alone.
        constraint: "orthogonal" (Stiefel; l2 only) or "rows" (row norms; any norm).
        activation: one of ``ACTIVATIONS``; "groupsort" takes exactly one of group_size and number_of_groups.
        group_size: units per group.
        number_of_groups: groups per layer.
        body: kind of the hidden layers, "dense" or "convolutional" (images; orthogonal only).
        head: "linear", "normalised" (rows of equal norm), or "prototypes".
        prototypes: scores per class, initially at the k-means of each class; for the head "prototypes".
        dropout: dropout of target prototypes in training, see ``PrototypeHead``.
        components: number of principal components of the training part as features of the body, l2 only; 0
            for the inputs themselves.
        clip: least and greatest value of an input, for a Clip in front of the network: certified radii then
            do not pay for values outside (``certify/box.py``); empty for none.
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
    clip: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.widths):
            raise RecipeError(f"network.widths = {list(self.widths)}; widths >= 1 are accepted")
        _check_choice("network.constraint", self.constraint, CONSTRAINTS)
        _check_choice("network.activation", self.activation, ACTIVATIONS)
        _check_choice("network.body", self.body, BODIES)
        _check_choice("network.head", self.head, HEADS)
        if self.body == "convolutional" and (self.constraint != "orthogonal" or not self.widths):
            raise RecipeError(
                "network.body 'convolutional' requires network.constraint 'orthogonal' and at least one width"
            )
        if self.activation == "householder" and self.constraint != "orthogonal":
            raise RecipeError(
                "network.activation 'householder' is 1-Lipschitz in l2 only and requires network.constraint "
                "'orthogonal'"
            )
        if (self.head == "prototypes") != (self.prototypes is not None and self.prototypes >= 1):
            raise RecipeError(
                f"network.head '{self.head}' with network.prototypes = {self.prototypes}; the head "
                "'prototypes' requires a number >= 1, other heads accept none"
            )
        if self.dropout and self.head != "prototypes":
            raise RecipeError(f"network.dropout is for the head 'prototypes', not for '{self.head}'")
        if self.components < 0 or (self.components and self.body == "convolutional"):
            raise RecipeError(
                f"network.components = {self.components} with a {self.body} body; 0, or a positive number "
                "with a dense body, is accepted"
            )
        if self.clip and not (len(self.clip) == 2 and self.clip[0] < self.clip[1]):
            raise RecipeError(f"network.clip = {list(self.clip)}; [least, greatest] or [] is accepted")
        given = sum(value is not None for value in (self.group_size, self.number_of_groups))
        if given != (self.activation == "groupsort"):
            raise RecipeError(
                f"network.activation '{self.activation}' with {given} of group_size and number_of_groups; "
                "'groupsort' requires exactly one of group_size and number_of_groups, other activations none"
            )


@dataclass(frozen=True)
class Schedule:
    """The [training] table of a recipe: the schedule of the optimiser (Adam; Kingma, Ba 2015).

    Attributes:
        epochs: passes over the data.
        batch_size: inputs per step.
        learning_rate: peak learning rate: linear warm-up for a twentieth of the steps, then a cosine to 0,
            so that the weights end in their sets.
        threads: number of torch's threads; a different number may give a different file.
        validation: share of the training part held for validation; 0 for none.
        patience: number of epochs without a lower validation loss after which training stops, with the
            weights of the lowest loss; 0 to never stop. Requires a validation share.
        averaging: averaging of the weights over the last steps: "none"; "uniform" (Izmailov et al. 2018); or
            "exponential" (Polyak averaging with forgetting). Averaged weights lie outside of their sets, and
            are projected before they are measured or exported.
        averaging_share: share of the training that is averaged, counted from its end.
        averaging_decay: decay of the exponential average per step.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    threads: int = 1
    validation: float = 0.0
    patience: int = 0
    averaging: str = "none"
    averaging_share: float = 0.25
    averaging_decay: float = 0.99

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "threads", "learning_rate"):
            self._require(name, 0 < getattr(self, name) <= MAX_NUMBER, "a positive number up to a million")
        self._require("validation", 0.0 <= self.validation < 1.0, "a share of at least 0 and below 1")
        self._require("patience", self.patience >= 0, "0, 1, 2, …")
        self._require("averaging_share", 0.0 < self.averaging_share <= 1.0, "a share above 0, at most 1")
        self._require("averaging_decay", 0.0 < self.averaging_decay < 1.0, "a number between 0 and 1")
        if self.averaging not in AVERAGINGS:
            raise RecipeError(
                f"unknown training.averaging '{self.averaging}'; {', '.join(AVERAGINGS)} are accepted"
            )
        if self.patience and not self.validation:
            raise RecipeError(
                "training.patience needs validation rows: set training.validation, for example to 0.1"
            )

    def _require(self, name: str, valid: bool, accepted: str) -> None:
        if not valid:
            raise RecipeError(f"training.{name} = {getattr(self, name)}; {accepted} is accepted")


@dataclass(frozen=True)
class Recipe:
    """The complete configuration of a training.

    Attributes:
        name: name of the recipe and of the files written.
        data: name of the data set, see ``lipmodel.data.load.load_parts``.
        norm: norm of the input and of the radii.
        lipschitz: Lipschitz constant of every score, in that norm.
        seed: seed of initial weights and of the order of batches.
        network, loss, training: the tables of the recipe.
        epsilons: radii at which certified accuracy is reported, in that norm.
        scaling: scaling of inputs inside the network, see ``scaling.py``. Parameters of the loss are in
            scaled units; radii and epsilons are in the units of the data.
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
            raise RecipeError(f"lipschitz = {self.lipschitz}; a positive, finite number is accepted")
        if self.network.constraint == "orthogonal" and self.norm is not Norm.TWO:
            raise RecipeError(
                f"network.constraint 'orthogonal' bounds l2 only; for {self.norm.symbol} 'rows' is accepted"
            )
        if self.network.components and self.norm is not Norm.TWO:
            raise RecipeError(
                f"network.components = {self.network.components} is for l2 only; for {self.norm.symbol} 0 is "
                "accepted"
            )
        if self.seed < 0:
            raise RecipeError(f"seed = {self.seed}; 0, 1, 2, … are accepted")
        if any(not 0.0 < e < math.inf for e in self.epsilons):
            raise RecipeError(f"epsilons = {list(self.epsilons)}; positive numbers are accepted")

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON types."""
        name = next(name for name, kind in LOSSES.items() if type(self.loss) is kind)
        return asdict(self) | {"norm": self.norm.value, "loss": {"name": name, **asdict(self.loss)}}

    def to_toml(self) -> str:
        """Return the text of a recipe that reads as this recipe, for its norm."""
        tables = self.to_dict()
        del tables["name"], tables["norm"]
        plain = {key: value for key, value in tables.items() if not isinstance(value, dict)}
        blocks = [_lines(plain)]
        blocks += [f"[{key}]\n" + _lines(value) for key, value in tables.items() if isinstance(value, dict)]
        return "\n".join(blocks)


def _lines(table: Mapping[str, Any]) -> str:
    """Return keys with values; numbers, strings and arrays of JSON are also TOML."""
    given = {key: value for key, value in table.items() if value is not None}
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in given.items())


def recipe_names() -> list[str]:
    """Return the names of the bundled recipes."""
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
    """Return a recipe by name or from a file, with the given values in place of its own.

    Args:
        name: one of :func:`recipe_names`, or the path of a ``.toml`` file.
        norm: any name that ``Norm.parse`` accepts; l2 by default.
        lipschitz: Lipschitz constant of every score; short for the setting ``lipschitz``.
        seed: seed of the training; short for the setting ``seed``.
        epochs: passes over the data; short for the setting ``training.epochs``.
        settings: dotted keys to values, such as ``training.epochs`` to 3; see :func:`parse_settings`.

    Raises:
        RecipeError: an unknown recipe, norm or key, or an invalid value.
    """
    short = {"lipschitz": lipschitz, "seed": seed, "training.epochs": epochs}
    given = {key: value for key, value in short.items() if value is not None}
    norm = Norm.TWO if norm is None else norm
    return parse_recipe(*_read(name), norm=norm, settings=given | dict(settings or {}))


def parse_settings(assignments: Iterable[str]) -> dict[str, Any]:
    """Return ``KEY=VALUE`` pairs as dotted keys and values; values are TOML, a bare word is a string.

    Raises:
        RecipeError: there is no equals sign, a value is not TOML, or a key is given twice.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not (key and equals and text):
            raise RecipeError(f"the setting '{assignment}' has no key or value; KEY=VALUE is accepted")
        if key in settings:
            raise RecipeError(f"the setting {key} is given twice; one value is accepted")
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
    """Return a recipe from TOML, for the given norm and with the settings applied.

    Setting ``loss.name`` to another loss drops the parameters of the replaced loss.

    Raises:
        RecipeError: invalid TOML, a key that is missing, unknown or of the wrong type, or an invalid value;
            the message names the key, and for an unknown key the nearest known key.
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
    """Return the text and the name of a recipe."""
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
    """Return the table with each dotted key set."""
    nested: dict[str, Any] = {}
    for dotted, value in settings.items():
        top, _, key = dotted.partition(".")
        if key:
            nested.setdefault(top, {})[key] = value
        elif isinstance(value, dict) or top in ("network", "loss", "training"):
            raise RecipeError(f"'{dotted}' is a table; set its keys one by one, as in training.epochs=3")
        else:
            nested[top] = value
    loss = table.get("loss")
    if isinstance(loss, dict) and nested.get("loss", {}).get("name", loss.get("name")) != loss.get("name"):
        table = table | {"loss": {}}
    return _overlay(table, nested, "the settings")


def _folder() -> Any:
    return resources.files("lipmodel.training") / "recipes"


def _overlay(base: dict[str, Any], over: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the base with the values of ``over``; tables are merged recursively."""
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
            f"the table [{key}] is missing" if value is None else f"{key} = {value!r}; a table is accepted"
        )
    return value


def _part(where: str, kind: type[Part], table: Mapping[str, Any]) -> Part:
    """Return a dataclass from a table, with each value checked against its declared type."""
    hints = get_type_hints(kind)
    declared = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    _check_keys(where, table, declared)
    values = {key: _value(f"{where}.{key}", value, hints[key]) for key, value in table.items()}
    try:
        return kind(**values)
    except TypeError as error:
        missing = [key for key in declared if key not in table]
        raise RecipeError(f"the table [{where}] lacks a required key of {', '.join(missing)}") from error


def _value(where: str, value: Any, kind: Any) -> Any:
    """Return the value, checked to be of that type; integers are converted to floats, arrays to tuples."""
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


def _unknown(kind: str, value: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(value, list(known), n=1)
    hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
    return f"unknown {kind} '{value}'{hint}; {', '.join(known)} are accepted"
