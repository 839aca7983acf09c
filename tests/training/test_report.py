from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest

from lipmodel.data.load import digits, two_moons
from lipmodel.display import certified_percent
from lipmodel.report.plots import as_image
from lipmodel.training.recipes import parse_recipe
from lipmodel.training.report import report
from lipmodel.training.train import train_recipe
from tests.training.small import small_recipe


@pytest.fixture(scope="module")
def trained():
    return train_recipe(small_recipe("digits"), *digits().split())


@pytest.fixture(scope="module")
def page(trained):
    return report(trained).decode()


class Attributes(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.sources = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]


def test_it_needs_nothing_from_elsewhere(page):
    found = Attributes(page)
    assert found.sources
    assert all(source.startswith("data:image/") for source in found.sources)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert "url(" not in page
    assert "@import" not in page


def test_its_images_are_complete(page):
    sources = Attributes(page).sources
    drawings = [base64.b64decode(s.split(",")[1]) for s in sources if s.startswith("data:image/svg")]
    assert len(drawings) == 4
    for drawing in drawings:
        assert ElementTree.fromstring(drawing).tag.endswith("svg")
        assert b'href="http' not in drawing
    images = [base64.b64decode(s.split(",")[1]) for s in sources if s.startswith("data:image/png")]
    assert len(images) == 12
    assert all(matplotlib.image.imread(io.BytesIO(image)).shape[:2] == (8, 8) for image in images)


def test_its_figures_are_those_of_the_file(trained, page):
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert f"{100 * trained.evaluation.clean_accuracy:.2f}% clean accuracy" in text
    for epsilon, share in trained.evaluation.certified_accuracy.items():
        assert f"{certified_percent(share)} certified accuracy at {epsilon}" in text
    assert trained.predictor.file.sha256 in text
    radii = trained.predictor.predict(trained.held_out.inputs).radii.certified_radius
    shown = [float(r) for r in re.findall(r"radius ([\d.e-]+)", text.split("smallest radius")[1])]
    order = np.sort(radii)
    for output, true in zip(shown, [*order[:6], *order[::-1][:6]], strict=True):
        assert true * (1 - 1e-3) <= output <= true  # cut downwards
    assert text.count(", correct") + text.count(", wrong: label") == 12


def test_its_recipe_is_one(trained, page):
    text = re.search(r"<pre>(.*?)</pre>", page, re.S).group(1).replace("&#34;", '"')
    assert parse_recipe(text, "digits", norm="2") == trained.recipe


@pytest.mark.parametrize("name", ["two-moons", "digits", "adult"])
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_a_recipe_as_text_reads_as_itself(name, norm):
    recipe = small_recipe(
        name, norm=norm, settings={"training.averaging": "uniform", "training.learning_rate": 1e-5}
    )
    assert parse_recipe(recipe.to_toml(), name, norm=norm) == recipe


def test_the_same_training_gives_the_same_pictures(trained, page):
    assert report(trained).decode() == page


def test_names_are_text_and_no_markup():
    train, held_out = (
        replace(part, classes=("<script>alert(1)</script>", "b & c"), columns=("<img src=x>", "$y$ 'z'"))
        for part in two_moons(400).split()
    )
    page = report(train_recipe(small_recipe(), train, held_out)).decode()
    found = Attributes(page)
    assert "script" not in found.tags
    assert "x" not in found.sources
    assert "&lt;script&gt;" in page
    assert len(found.sources) == 5  # of 2-d inputs the field is drawn too


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 5), (4, 5)),
        ((1, 4, 5), (4, 5)),
        ((3, 4, 5), (4, 5, 3)),
        ((4, 5, 3), (4, 5, 3)),
        ((20,), None),
        ((2, 2, 4, 5), None),
        ((7, 4, 5), None),
    ],
)
def test_what_is_an_image(shape, expected):
    image = as_image(np.arange(np.prod(shape)) - 3.0, shape)
    assert (None if image is None else image.shape) == expected
    if image is not None:
        assert (image.min(), image.max()) == (0.0, 1.0)


def test_radii_of_hardly_anything_are_drawn_too():
    trained = train_recipe(small_recipe(lipschitz=1e-30, epochs=1), *two_moons(400).split())
    assert report(trained).startswith(b"<!doctype html>")
