"""Measure how plain the project's English is, by kind of text.

    python -m tests.prose [--worst N] [PATH ...]

Rates are per 1,000 words, or shares of texts by their first word; ``MODELS`` gives the same rates of the
docstrings of eight codebases of the field. Kinds of text: docstrings; attribute docstrings; comments; help (of
commands and options); schema (summaries and descriptions in the OpenAPI document, among them those of settings,
which are also help texts); problems (titles and advice); messages (every other string literal of two words or
more); pages (HTML, templates, strings of scripts); Markdown outside code.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PATHS = ("lipmodel", "service", "lipcert", "docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")

WORDS = {
    "who": {"what", "who", "whom", "whose", "whoever"},
    "told": {"tell", "tells", "told"},
    "nobody": {"nobody", "anybody", "somebody", "whoever"},
    "returns": {"return", "returns", "returned"},
}
FIRST = {
    "wh-first": re.compile(r"\s*(What|Whether|Who|Whose|How|Where|Which|When)\b"),
    "anaphoric": re.compile(r"\s*(The same|Those|That|It|Of|As above|Likewise)\b"),
}
MEASURES = (*WORDS, *FIRST)
MODELS = "who 0-1.3, told 0, nobody 0, returns 3.7-15.3, wh-first 0-1.4%, anaphoric 0%"
STRAY = (
    WORDS["who"] | WORDS["told"] | WORDS["nobody"] | {"likewise", "anew", "stands", "dear", "deaf", "unheard"}
)
"""Words by which texts are ranked for ``--worst``; a first word that ``FIRST`` counts weighs three of these."""

HELP = {"help", "short_help", "epilog"}
SCHEMA = {"description", "summary", "response_description"}
SHOWN_ATTRIBUTES = {"alt", "title", "placeholder", "aria-label", "content"}
DIRECTIVE = re.compile(r"#\s*(noqa|type:|fmt:|pragma|!)")
SCRIPT = re.compile(
    r"//[^\n]*|/\*.*?\*/"
    r"|(\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|`(?:\\.|\$\{(?:[^{}`]|`[^`]*`|\{[^{}]*\})*\}|[^`\\])*`)",
    re.DOTALL,
)


class Text(NamedTuple):
    """One text that a person reads, and its place."""

    kind: str
    file: Path
    line: int
    text: str

    @property
    def strays(self) -> list[str]:
        """Return the words and beginnings of the text that the measures count against it."""
        first = [match[1] for rule in FIRST.values() if (match := rule.match(self.text))]
        return first * 3 + [word for word in words(self.text) if word in STRAY]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def figures(texts: list[Text]) -> dict[str, float]:
    """Return each of ``MEASURES``: occurrences per 1,000 words, or the share of texts."""
    found = [word for text in texts for word in words(text.text)]
    rates = {
        name: 1000 * sum(w in group for w in found) / max(1, len(found)) for name, group in WORDS.items()
    }
    shares = {
        name: sum(bool(rule.match(t.text)) for t in texts) / max(1, len(texts))
        for name, rule in FIRST.items()
    }
    return rates | shares


def by_kind(paths: tuple[str, ...] = PATHS) -> dict[str, list[Text]]:
    """Return the texts in files and folders, relative to the repository or absolute, by kind."""
    kinds: dict[str, list[Text]] = defaultdict(list)
    for path in paths:
        place = ROOT / path
        for file in (
            sorted(f for f in place.rglob("*") if f.is_file()) if place.is_dir() else [place] * place.exists()
        ):
            for text in READERS.get(file.suffix, lambda _: iter(()))(file):
                kinds[text.kind].append(text)
    return kinds


def read_python(file: Path) -> Iterator[Text]:
    source = file.read_text()
    tree = ast.parse(source)
    seen: set[ast.AST] = set()  # strings of a kind already, which are no messages

    def text(kind: str, node: ast.AST) -> Iterator[Text]:
        if node not in seen and (found := literal(node)) is not None:
            seen.update(ast.walk(node))
            yield Text(kind, file, getattr(node, "lineno", 1), found)

    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if found := ast.get_docstring(node):
                yield Text("docstrings", file, getattr(node, "lineno", 1), found)
                if any(
                    ast.unparse(d).split("(")[0].endswith((".command", ".group")) for d in decorators(node)
                ):
                    yield Text("help", file, node.body[0].lineno, found)
                seen.add(node.body[0].value)
            if isinstance(node, ast.ClassDef) and node.name == "ProblemKind":
                for member in (m for m in node.body if isinstance(m, ast.Assign)):
                    for part in member.value.elts:
                        yield from (t for t in text("problems", part) if " " in t.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            yield from text("attribute docstrings", node.value)
        elif isinstance(node, ast.keyword) and node.arg in HELP | SCHEMA:
            yield from text("help" if node.arg in HELP else "schema", node.value)
    for node in ast.walk(tree):
        yield from (t for t in text("messages", node) if is_prose(t.text))
    yield from read_comments(file, source)


def decorators(node: ast.AST) -> list[ast.expr]:
    return getattr(node, "decorator_list", [])


def literal(node: ast.AST) -> str | None:
    """Return a string literal's text, with … in place of what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


def is_prose(text: str) -> bool:
    return len(re.findall(r"(?<!\S)[(„\"']?[A-Za-z'’-]{2,}[)\"',.;:!?]*(?!\S)", text)) > 1


def read_comments(file: Path, source: str) -> Iterator[Text]:
    """Yield comments; lines of one comment together."""
    last, start, lines = -1, 0, []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not DIRECTIVE.match(token.string):
            line, whole = token.start[0], token.line.strip().startswith("#")
            if not (whole and line == last + 1):
                if lines:
                    yield Text("comments", file, start, " ".join(lines))
                start, lines = line, []
            lines.append(token.string.lstrip("# "))
            last = line if whole else -1
    if lines:
        yield Text("comments", file, start, " ".join(lines))


def read_markdown(file: Path) -> Iterator[Text]:
    """Yield paragraphs, headings, items of lists and rows of tables; templates' texts are of pages."""
    kind = "pages" if ROOT / "docs" not in file.parents and file.parent != ROOT else "Markdown"
    source = blanked(r"^(```|~~~).*?^\1|<!--.*?-->|\{[%#].*?[%#]\}", file.read_text())
    source = re.sub(r"`[^`]*`|\{\{.*?\}\}|(?<=\])\([^)]*\)", "…", source)
    start, block = 0, []
    for number, line in enumerate([*source.splitlines(), ""], 1):
        begins = re.match(r"\s*([-*+|#>]|\d+\.)\s*", line)
        if (begins or not line.strip()) and block:
            if is_prose(found := " ".join(block)):
                yield Text(kind, file, start, found)
            block = []
        if line.strip():
            start = start if block else number
            block.append(line[begins.end() :] if begins else line.strip())


def blanked(pattern: str, text: str) -> str:
    """Return a text with the matches of a pattern gone, and all lines where they were."""
    return re.sub(pattern, lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)


class _Page(HTMLParser):
    """Collects what an HTML page or a template for one shows."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, str]] = []
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in {"script", "style"}
        for name, value in attrs:
            if name in SHOWN_ATTRIBUTES and value:
                self.found.append((self.getpos()[0], value))

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.found.append((self.getpos()[0], data.strip()))


def read_html(file: Path) -> Iterator[Text]:
    page = _Page()
    page.feed(re.sub(r"\{\{.*?\}\}", "…", blanked(r"\{[%#].*?[%#]\}", file.read_text())))
    yield from (Text("pages", file, line, text) for line, text in page.found if is_prose(text))


def read_script(file: Path) -> Iterator[Text]:
    source = file.read_text()
    for match in SCRIPT.finditer(source):
        text = re.sub(r"\$\{.*?\}", "…", (match[1] or "  ")[1:-1])
        if is_prose(text):
            yield Text("pages", file, source.count("\n", 0, match.start()) + 1, text)


READERS = {".py": read_python, ".md": read_markdown, ".html": read_html, ".js": read_script}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--worst", type=int, default=15, help="texts to print of each kind (default: 15)")
    parser.add_argument(
        "paths", nargs="*", default=PATHS, help="files and folders (default: the whole project)"
    )
    given = parser.parse_args()
    kinds = by_kind(tuple(given.paths))
    print(f"{'':22}{'texts':>7}{'words':>8}" + "".join(f"{name:>10}" for name in MEASURES))
    for kind, texts in kinds.items():
        count, rates = sum(len(words(t.text)) for t in texts), figures(texts)
        shown = (f"{rates[name]:>10.1f}" if name in WORDS else f"{rates[name]:>10.1%}" for name in MEASURES)
        print(f"{kind:22}{len(texts):>7}{count:>8}" + "".join(shown))
    print(f"docstrings of model codebases: {MODELS}")
    for kind, texts in kinds.items():
        worst = sorted((t for t in texts if t.strays), key=lambda t: -len(t.strays))[: given.worst]
        if worst:
            print(f"\n{kind}")
        for text in worst:
            place = text.file.relative_to(ROOT) if text.file.is_relative_to(ROOT) else text.file
            strays = ", ".join(dict.fromkeys(text.strays))
            print(f"{place}:{text.line}: [{strays}] {' '.join(text.text.split())[:110]}")


if __name__ == "__main__":
    main()
