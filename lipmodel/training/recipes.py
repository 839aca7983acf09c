"""Recipes: everything that decides a training, read strictly from TOML.

A recipe is written for l2; a table ``[norm.1]`` or ``[norm.inf]`` holds what differs in that norm.
An unknown key is an error that names the nearest known one: nothing is silently ignored.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from lipmodel.errors import RecipeError
from lipmodel.norms import Norm
from lipmodel.training.losses import LOSSES, Loss

CONSTRAINTS = ("orthogonal", "rows")
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
        prototypes: scores a class.
    """

    widths: tuple[int, ...]
    constraint: str
    activation: str = "maxmin"
    group_size: int | None = None
    number_of_groups: int | None = None
    body: str = "dense"
    head: str = "linear"
    prototypes: int | None = None

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
        given = sum(value is not None for value in (self.group_size, self.number_of_groups))
        if given != (self.activation == "groupsort"):
            raise RecipeError(
                "network.activation 'groupsort' takes exactly one of group_size and number_of_groups, "
                f"the others neither; '{self.activation}' has {given}"
            )


@dataclass(frozen=True)
class Schedule:
    """How the optimiser (Adam; Kingma, Ba 2015) runs.

    Attributes:
        epochs: passes over the data.
        batch_size: inputs a step.
        learning_rate: at its peak; it rises linearly for a twentieth of the steps, then falls to 0
            as a cosine, so that the weights end in their sets.
        threads: that torch uses; another number may give another file.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "threads", "learning_rate"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise RecipeError(f"training.{name} = {value} makes no sense; a positive number is accepted")


@dataclass(frozen=True)
class Recipe:
    """A training, decided to the last detail.

    Attributes:
        name: of the recipe; also of the files written.
        data: name of the data set, see ``lipmodel.data.load_parts``.
        norm: of the input, in which radii are.
        lipschitz: bound on every score, in that norm.
        seed: of initial weights and of the order of batches.
        network, loss, training: the parts.
        epsilons: where certified accuracy is reported, in that norm.
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

    def __post_init__(self) -> None:
        if not 0.0 < self.lipschitz < math.inf:
            raise RecipeError(
                f"a Lipschitz constant of {self.lipschitz} makes no sense; a positive number is accepted"
            )
        if self.network.constraint == "orthogonal" and self.norm is not Norm.TWO:
            raise RecipeError(
                f"orthogonal weights bound l2 only; for l{self.norm} the constraint 'rows' is accepted"
            )
        if self.seed < 0:
            raise RecipeError(f"a seed of {self.seed} makes no sense; 0, 1, 2, … are accepted")
        if any(not 0.0 < e < math.inf for e in self.epsilons):
            raise RecipeError(f"epsilons = {list(self.epsilons)}; positive numbers are accepted")

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        name = next(name for name, kind in LOSSES.items() if isinstance(self.loss, kind))
        return asdict(self) | {"norm": self.norm.value, "loss": {"name": name, **asdict(self.loss)}}


def recipe_names() -> list[str]:
    """Names of the recipes there are."""
    return sorted(f.name.removesuffix(".toml") for f in _folder().iterdir() if f.name.endswith(".toml"))


def load_recipe(
    name: str,
    *,
    norm: str | None = None,
    lipschitz: float | None = None,
    seed: int | None = None,
    epochs: int | None = None,
) -> Recipe:
    """A recipe by name, with what is given in place of what it says.

    Args:
        name: one of :func:`recipe_names`.
        norm: "1", "2" or "inf"; l2 by default.
        lipschitz: bound on every score; 1 by default.
        seed: of the training; the recipe's by default.
        epochs: passes over the data; the recipe's by default.

    Raises:
        RecipeError: unknown recipe or norm, or a value that makes no sense.
    """
    if name not in recipe_names():
        raise RecipeError(_unknown("recipe", name, recipe_names()))
    recipe = parse_recipe((_folder() / f"{name}.toml").read_text(encoding="utf-8"), name, norm=norm or "2")
    if lipschitz is not None:
        recipe = replace(recipe, lipschitz=lipschitz)
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    if epochs is not None:
        recipe = replace(recipe, training=replace(recipe.training, epochs=epochs))
    return recipe


def parse_recipe(text: str, name: str, *, norm: str = "2") -> Recipe:
    """A recipe from TOML, as it stands for the norm given.

    Raises:
        RecipeError: not TOML, a key that is missing, unknown or of the wrong type, a value that
            makes no sense; names the key, and for an unknown one the nearest there is.
    """
    _check_choice("norm", norm, [n.value for n in Norm])
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {name} is not TOML: {error}") from error
    variants = table.pop("norm", {})
    _check_keys("norm", variants, [n.value for n in Norm])
    table = _overlay(table, variants.get(norm, {}), "norm." + norm)
    _check_keys("", table, ["data", "seed", "lipschitz", "epsilons", "network", "loss", "training"])
    loss = dict(_table(table, "loss"))
    kind = loss.pop("name", None)
    _check_choice("loss.name", kind, list(LOSSES))
    return Recipe(
        name=name,
        data=_value("data", table.get("data"), str),
        norm=Norm(norm),
        lipschitz=_value("lipschitz", table.get("lipschitz", 1.0), float),
        seed=_value("seed", table.get("seed", 0), int),
        network=_part("network", NetworkRecipe, _table(table, "network")),
        loss=_part("loss", LOSSES[str(kind)], loss),
        training=_part("training", Schedule, _table(table, "training")),
        epsilons=_value("epsilons", table.get("epsilons"), tuple[float, ...]),
    )


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
