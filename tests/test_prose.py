"""Text that people read is plain technical English; ``python -m tests.prose`` prints the figures and the worst texts."""

from __future__ import annotations

from functools import cache

import pytest

from tests import prose

MOST = {  # who, told, nobody per 1,000 words; shares of wh-first and anaphoric
    "docstrings": (2.0, 0.0, 0.0, 0.02, 0.0),
    "attribute docstrings": (2.0, 0.0, 0.0, 0.02, 0.0),
    "help": (2.0, 0.0, 0.0, 0.02, 0.0),
    "schema": (2.0, 0.0, 0.0, 0.02, 0.0),
    "problems": (2.0, 0.0, 0.0, 0.0, 0.0),
    "messages": (2.0, 0.0, 0.0, 0.01, 0.01),
    "pages": (3.0, 0.0, 0.0, 0.02, 0.02),
    "Markdown": (3.0, 0.0, 0.0, 0.03, 0.01),
}
LEAST_RETURNS = 3.0
"""Of docstrings: "Return …" is how one of a function begins."""

SOURCE = '''
"""What is measured."""
LIMIT = 1
"""Of a file."""


@group.command()
@click.option("--seed", help="Whose seed it is.")
def train(seed):
    """Return nothing."""
    if seed < 0:  # nobody told
        raise ValueError(f"a seed of {seed} makes no sense" if seed else "who knows")
    return Field(description="What the caller sends.")


class ProblemKind(Enum):
    """Kinds."""

    BUSY = ("busy", 503, "The service is busy", "Try again.")
'''


@cache
def kinds():
    return prose.by_kind()


@pytest.mark.parametrize("kind", MOST)
def test_words_and_beginnings_are_those_of_technical_english(kind):
    found = prose.figures(kinds()[kind])
    above = {
        name: found[name]
        for name, most in zip(("who", "told", "nobody", "wh-first", "anaphoric"), MOST[kind], strict=True)
        if found[name] > most
    }
    worst = sorted(kinds()[kind], key=lambda text: -len(text.strays))[:10]
    assert not above, "\n".join(f"{text.file}:{text.line}: {text.strays}" for text in worst if text.strays)


def test_docstrings_begin_with_verbs():
    assert prose.figures(kinds()["docstrings"])["returns"] >= LEAST_RETURNS


def test_every_text_has_its_kind(tmp_path):
    (tmp_path / "source.py").write_text(SOURCE)
    (tmp_path / "page.js").write_text("// who\nconst a = 'x', b = `It has ${count} rows`;\n")
    (tmp_path / "page.html").write_text("<p title='Drop a file'>\n{# who #}What is {{ proved }}</p>\n")
    (tmp_path / "notes.md").write_text("# The end\n\n- `who` is\n  told\n\n```\nwho is it\n```\n")
    found = prose.by_kind((str(tmp_path),))
    assert {kind: [(text.line, text.text) for text in texts] for kind, texts in found.items()} == {
        "docstrings": [(1, "What is measured."), (9, "Return nothing."), (16, "Kinds.")],
        "attribute docstrings": [(4, "Of a file.")],
        "help": [(10, "Return nothing."), (8, "Whose seed it is.")],
        "schema": [(13, "What the caller sends.")],
        "problems": [(19, "The service is busy"), (19, "Try again.")],
        "messages": [(12, "a seed of … makes no sense"), (12, "who knows")],
        "comments": [(11, "nobody told")],
        "pages": [
            (1, "The end"), (3, "… is told"), (1, "Drop a file"), (1, "What is …"), (2, "It has … rows"),
        ],
    }  # fmt: skip
    rates = prose.figures(found["docstrings"])
    assert rates == {
        "who": 1000 / 6, "told": 0, "nobody": 0, "returns": 1000 / 6, "wh-first": 1 / 3, "anaphoric": 0,
    }  # fmt: skip
    assert prose.figures(found["attribute docstrings"])["anaphoric"] == 1
