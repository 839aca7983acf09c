from __future__ import annotations

import pytest

from lipmodel.errors import RecipeError
from lipmodel.norms import Norm
from lipmodel.training.losses import (
    LOSSES,
    EfficientMarginMaximization,
    Hinge,
    HingeKantorovichRubinstein,
    MultiClassHinge,
)
from lipmodel.training.recipes import load_recipe, parse_recipe, parse_settings, recipe_names

RECIPE = """
data = "two-moons"
epsilons = [0.1, 1]
[network]
widths = [8]
constraint = "orthogonal"
[loss]
name = "hinge"
margin = 0.5
[training]
epochs = 1
batch_size = 10
learning_rate = 0.01
[norm.inf]
network.constraint = "rows"
loss.margin = 0.25
"""


def test_the_bundled_recipes_hold_for_every_norm():
    assert recipe_names() == [
        "adult", "breast-cancer", "cifar-10", "digits", "fashion-mnist", "mnist", "spambase", "two-moons",
    ]  # fmt: skip
    for name in recipe_names():
        for norm in Norm:
            recipe = load_recipe(name, norm=norm.value)
            assert (recipe.name, recipe.norm, recipe.lipschitz) == (name, norm, 1.0)
            assert recipe.network.constraint == ("orthogonal" if norm is Norm.TWO else "rows")
    assert isinstance(load_recipe("two-moons").loss, HingeKantorovichRubinstein)
    assert isinstance(load_recipe("digits").loss, EfficientMarginMaximization)


def test_arguments_override_the_recipe():
    recipe = load_recipe("digits", norm="inf", lipschitz=2, seed=7, epochs=3)
    assert (recipe.norm, recipe.lipschitz, recipe.seed, recipe.training.epochs) == (Norm.INF, 2, 7, 3)
    assert recipe.to_dict()["loss"]["name"] == "emma"


def test_a_loss_derived_from_another_is_recorded_by_its_own_name(monkeypatch):
    class Derived(Hinge):
        pass

    monkeypatch.setitem(LOSSES, "derived", Derived)
    recipe = load_recipe("two-moons", settings={"loss.name": "derived"})
    assert recipe.to_dict()["loss"]["name"] == "derived"


def test_a_norms_table_changes_what_it_names_and_nothing_else():
    plain, changed = parse_recipe(RECIPE, "r"), parse_recipe(RECIPE, "r", norm="inf")
    assert (plain.loss, changed.loss) == (Hinge(0.5), Hinge(0.25))
    assert (plain.network.constraint, changed.network.constraint) == ("orthogonal", "rows")
    assert plain.training == changed.training
    assert plain.epsilons == (0.1, 1.0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 1", "epoch = 1", r"unknown key 'training.epoch' \(did you mean 'training.epochs'\?\)"),
        ('"orthogonal"', '"orthogonal"\ncomponents = -1', "network.components = -1"),
        ('"orthogonal"', '"orthogonal"\ndropout = 0.5', "network.dropout is for the head 'prototypes'"),
        ("[loss]", "[losses]", r"unknown key 'losses' \(did you mean 'loss'\?\)"),
        ("margin = 0.5", "epsilon = 0.5", "unknown key 'loss.epsilon'"),
        ('"hinge"', '"hindge"', r"unknown loss.name 'hindge' \(did you mean 'hinge'\?\)"),
        ('"orthogonal"', '"orthogonale"', "did you mean 'orthogonal'"),
        ("widths = [8]", "widths = [0]", "widths >= 1 are accepted"),
        ("widths = [8]", "widths = [8]\nhead = 'prototype'", r"did you mean 'prototypes'"),
        (
            'constraint = "orthogonal"',
            "constraint = 'rows'\nactivation = 'householder'",
            "'householder' is 1-Lipschitz in l2 only",
        ),
        (
            "widths = [8]",
            "widths = [8]\nhead = 'prototypes'",
            "prototypes = None; the head 'prototypes' requires a number",
        ),
        ("widths = [8]", "widths = [8]\nhead = 'prototypes'\nprototypes = 0", "prototypes = 0"),
        ("widths = [8]", "widths = [8]\nprototypes = 3", "'linear' with network.prototypes = 3"),
        ("widths = [8]", "widths = [8]\nbody = 'convolution'", "did you mean 'convolutional'"),
        ("widths = [8]", "widths = []\nbody = 'convolutional'", "at least one width"),
        ("widths = [8]", "widths = 8", "network.widths = 8; an array is accepted"),
        ("widths = [8]", "widths = [8.5]", "network.widths = 8.5; a value of type int"),
        ("widths = [8]", "", "lacks a required key of .*widths"),
        ("epochs = 1", "epochs = true", "training.epochs = True; a value of type int"),
        ("epochs = 1", "epochs = 0", "training.epochs = 0"),
        ("learning_rate = 0.01", "learning_rate = nan", "training.learning_rate = nan"),
        ("margin = 0.5", "margin = -1", "loss.margin = -1"),
        ("epsilons = [0.1, 1]", "epsilons = [0.0]", "epsilons"),
        ("epsilons = [0.1, 1]", "", "epsilons = None; an array"),
        ('data = "two-moons"', "data = 3", "data = 3; a value of type str"),
        ("widths = [8]", "widths = [8]\nactivation = 'groupsort'", "exactly one of group_size"),
        ("widths = [8]", "widths = [8]\ngroup_size = 2", "exactly one of group_size"),
        ("widths = [8]", "widths = [8]\nactivation = 'tanh'", "unknown network.activation 'tanh'"),
        ("[norm.inf]", "[norm.3]", "unknown norm '3'; l1, l2 and linf"),
        ("[training]", "[training", "is not TOML"),
    ],
)
def test_mistakes_in_a_recipe_are_named(old, new, message):
    assert old in RECIPE
    with pytest.raises(RecipeError, match=message):
        parse_recipe(RECIPE.replace(old, new, 1), "r")


def test_mistakes_in_a_norms_table_are_named():
    with pytest.raises(RecipeError, match="norm = 2; a table is accepted"):
        parse_recipe(f"norm = 2\n{RECIPE.partition('[norm.inf]')[0]}", "r")
    with pytest.raises(RecipeError, match=r"unknown key 'loss\.margins'"):
        parse_recipe(RECIPE.replace("loss.margin = 0.25", "loss.margins = 0.25"), "r", norm="inf")
    with pytest.raises(RecipeError, match=r"norm\.inf\.loss is a table in one place"):
        parse_recipe(RECIPE.replace("loss.margin = 0.25", "loss = 1"), "r", norm="inf")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "3"}, "unknown norm '3'; l1, l2 and linf"),
        ({"lipschitz": 0.0}, "lipschitz = 0.0"),
        ({"lipschitz": float("nan")}, "lipschitz = nan"),
        ({"seed": -1}, "seed = -1"),
        ({"epochs": 0}, "training.epochs = 0"),
    ],
)
def test_invalid_options(arguments, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("digits", **arguments)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match=r"unknown recipe 'digit' \(did you mean 'digits'\?\); adult, "):
        load_recipe("digit")


def test_orthogonal_weights_are_for_l2_only():
    with pytest.raises(RecipeError, match="'orthogonal' bounds l2 only"):
        parse_recipe(RECIPE.replace('network.constraint = "rows"', ""), "r", norm="inf")


# --- settings ------------------------------------------------------------------------------


def test_settings_are_read_as_toml_and_bare_words_as_strings():
    given = ["training.epochs=3", "training.learning_rate = 1e-3", "network.widths=[8, 8]", "loss.name=hinge",
             "scaling='common'", "epsilons=[0.1]"]  # fmt: skip
    assert parse_settings(given) == {
        "training.epochs": 3, "training.learning_rate": 0.001, "network.widths": [8, 8], "loss.name": "hinge",
        "scaling": "common", "epsilons": [0.1],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["training.epochs"], "'training.epochs' has no key or value; KEY=VALUE"),
        (["=3"], "KEY=VALUE"),
        (["seed="], "KEY=VALUE"),
        (["seed=1", "seed=2"], "seed is given twice"),
        (["network.widths=[8,"], r"the value of network.widths, \[8,, is not TOML"),
        (["seed=1\nlipschitz=2"], "the value of seed"),
    ],
)
def test_malformed_settings(given, message):
    with pytest.raises(RecipeError, match=message):
        parse_settings(given)


def test_settings_change_one_key_each_and_come_last():
    plain = load_recipe("digits", norm="inf")
    changed = load_recipe("digits", norm="inf", settings={"loss.epsilon": 0.2, "training.epochs": 3})
    assert (changed.loss.epsilon, changed.training.epochs) == (0.2, 3)
    assert (plain.loss.epsilon, changed.loss.temperature) == (0.1, plain.loss.temperature)
    assert changed.network == plain.network


def test_another_loss_starts_from_its_own_parameters():
    assert load_recipe("digits", settings={"loss.name": "multiclass-hinge"}).loss == MultiClassHinge(1.0)
    recipe = load_recipe("digits", settings={"loss.name": "multiclass-hinge", "loss.margin": 0.5})
    assert recipe.loss == MultiClassHinge(0.5)
    same = load_recipe("digits", settings={"loss.name": "emma"})
    assert same.loss == load_recipe("digits").loss


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training.epoch": 3}, r"unknown key 'training.epoch' \(did you mean 'training.epochs'\?\)"),
        ({"trainig.epochs": 3}, r"unknown key 'trainig' \(did you mean 'training'\?\)"),
        ({"epochs": 3}, "unknown key 'epochs'"),
        ({"name": "x"}, "unknown key 'name'"),
        ({"training.epochs": "many"}, "training.epochs = 'many'; a value of type int"),
        ({"training.epochs": 3.5}, "training.epochs = 3.5; a value of type int"),
        ({"training": 3}, "'training' is a table; set its keys one by one"),
        ({"lipschitz.x": 1}, "lipschitz = .*; a value of type float is accepted"),
        ({"scaling": "rows"}, "unknown scaling 'rows'; none, common, columns are accepted"),
        ({"training.validation": 1.0}, "training.validation = 1.0; a share"),
        ({"training.patience": -1}, "training.patience = -1"),
        ({"training.patience": 2}, "training.patience needs validation rows: set training.validation"),
        ({"training.averaging": "median"}, "unknown training.averaging 'median'"),
        ({"training.averaging_share": 0.0}, "training.averaging_share = 0.0"),
        ({"training.averaging_decay": 1.0}, "training.averaging_decay = 1.0"),
        (
            {"training.learning_rate": 1e38},
            "learning_rate = 1e\\+38; a positive number up to a million",
        ),
    ],
)
def test_invalid_settings(settings, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("digits", settings=settings)


def test_a_recipe_of_your_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    recipe = load_recipe(str(path), epochs=4)
    assert (recipe.name, recipe.training.epochs, recipe.loss) == ("mine", 4, Hinge(0.5))
    with pytest.raises(RecipeError, match=r"gone.toml cannot be read: No such file"):
        load_recipe(str(tmp_path / "gone.toml"))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(str(path))
