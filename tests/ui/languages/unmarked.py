"""Find texts of the dashboard that are not marked for translation.

``python -m tests.ui.languages.unmarked [FILE ...]`` prints them. In templates every literal text
and every literal attribute that people read counts. In Python a literal counts if it looks like
words: names of fields, states and addresses do not.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final, NamedTuple

from jinja2 import Environment

ROOT: Final = Path(__file__).parents[3]
UI: Final = ROOT / "ojs_cluster/ui"
READ_ATTRIBUTES: Final = frozenset({"title", "aria-label", "placeholder", "alt"})
NOT_TEXT: Final = frozenset({"code", "kbd", "pre", "script", "style"})
"""Elements whose content is the same in all languages."""
MARKS: Final = frozenset({"_", "gettext", "ngettext", "later"})
NOT_SHOWN: Final = frozenset(
    {
        *("TypeVar", "ContextVar", "cast"),
        *("variable", "contradictions", "refused", "unusable", "_object", "error_code"),
    }
)
"""Functions whose arguments no page shows: names, the reference of the settings, and the log."""
_WORD: Final = re.compile(r"[A-Za-z]{2,}")
_SENTENCE: Final = re.compile(r"^[A-Z][a-z]+$|[A-Za-z]{2,}[,:;.]? [A-Za-z(]{2,}")
"""A capitalised word, or two words."""
_PARAMETER: Final = re.compile(r"^[\w/.-]+[;,] [\w-]+=")
"""The beginning of a value of a header, such as ``text/html; charset=``."""
_TAG: Final = re.compile("<[^>]*>")
_QUOTED: Final = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'", re.DOTALL)
_COMMAND: Final = re.compile("/|(?:curl|ojsctl|ojs-cluster|pip) ")
"""The start of a command to copy, or of the rest of one after an address."""
_ATTRIBUTE: Final = re.compile(r'[\w-]+="[^"]*"')
NAMES: Final = frozenset(
    {
        *("ojs-cluster", "GET", "POST", "JSON", "UTC", "p50", "p95", "curl", "Python"),
        *("Accept", "Authorization", "Location", "Vary", "Lax", "Strict", "autofocus"),
        *("Europe/Berlin", "second", "True", "English"),
    }
)
"""What is called the same in all languages: names, those of HTTP and HTML, and values of fields."""
_is_example: Final = re.compile(r"[a-z]+\.[a-z*]+").fullmatch
"""A value as an API client writes it, such as ``email.*``."""


class Unmarked(NamedTuple):
    """A text that is not marked."""

    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.text}"


class _Texts(HTMLParser):
    """Collects the literal texts of a template, in which NUL stands for each expression."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[int, str]] = []
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in NOT_TEXT:
            self._inside.append(tag)
        for name, value in attrs:
            if (
                name in READ_ATTRIBUTES
                and _WORD.search(value or "")
                and not _is_example(value or "")
            ):
                self._note(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            self._inside.remove(tag)

    def handle_data(self, data: str) -> None:
        if not self._inside and _WORD.search(data):
            self._note(data)

    def _note(self, text: str) -> None:
        # A macro may return attributes of the element in which it is called.
        text = _ATTRIBUTE.sub("", text)
        words = [word for word in re.split(r"[\s\0]+", text) if _WORD.search(word)]
        if any(word.strip(".,:;()·") not in NAMES for word in words):
            self.found.append((self.getpos()[0], " ".join(text.replace("\0", "…").split())))


def of_template(path: Path) -> Iterator[Unmarked]:
    """Yield the texts of a template that are not marked."""
    source = path.read_text()
    environment = Environment(extensions=["jinja2.ext.i18n"], autoescape=True)
    pieces: list[str] = []
    depth, line, expression = 0, 1, ""
    for at, kind, value in environment.lex(source):
        line = at
        if kind in ("variable_begin", "block_begin"):
            expression = ""
        elif kind in ("variable_end", "block_end"):
            words = expression.split()
            if kind == "block_end" and words and words[0] in ("trans", "endtrans"):
                depth += 1 if words[0] == "trans" else -1
            elif depth == 0:
                yield from (Unmarked(path, line, text) for text in _in_expression(expression))
            mark = "\0" if kind == "variable_end" else " "
            pieces.append(mark + "\n" * value.count("\n"))
        elif kind == "data":
            pieces.append(value if depth == 0 else "\n" * value.count("\n"))
        elif kind not in ("comment", "comment_begin", "comment_end"):
            expression += value if kind == "string" else f" {value} "
            pieces.append("\n" * value.count("\n"))
        else:
            pieces.append("\n" * value.count("\n"))
    parser = _Texts()
    parser.feed(re.sub(r"(<[a-z]+)\0", r"\1 \0", "".join(pieces)))
    parser.close()
    yield from (Unmarked(path, at, text) for at, text in parser.found)


def _in_expression(expression: str) -> Iterator[str]:
    """Yield literals of an expression that look like words and are no argument of a mark."""
    rest = re.sub(
        r"\b(?:_|ngettext|later)\s*\(\s*(?:\"[^\"]*\"|'[^']*')(?:\s*,\s*\"[^\"]*\")?",
        "",
        expression,
    )
    for match in _QUOTED.finditer(rest):
        text = match[1] or match[2] or ""
        if _SENTENCE.search(text) and text not in NAMES and not _COMMAND.match(text):
            yield text


def _is_text(literal: str) -> bool:
    """Return whether a literal looks like words, apart from markup in it."""
    text = _TAG.sub("", literal)
    return _SENTENCE.search(text) is not None and not _PARAMETER.match(text)


class _Literals(ast.NodeVisitor):
    """Collects literals of Python that look like words."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if isinstance(owner, ast.Name) and owner.id in ("log", "_log", "re"):
            return
        if isinstance(node.func, ast.Attribute) and node.func.attr.startswith("_log"):
            return
        if name in NOT_SHOWN:
            return
        for index, argument in enumerate(node.args):
            if name in MARKS and index < 2 and isinstance(argument, ast.Constant):
                continue
            self.visit(argument)
        for keyword in node.keywords:
            self.visit(keyword.value)
        self.visit(node.func)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Messages of errors of the API and of programmers are in English."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name in NOT_SHOWN:
            return
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        for each in node.body:
            self.visit(each)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.visit(node.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and node.value not in NAMES and _is_text(node.value):
            self.found.append((node.lineno, node.value))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        text = "".join(
            str(each.value) if isinstance(each, ast.Constant) else "…" for each in node.values
        )
        if _is_text(text.replace("…", " ")) and not _COMMAND.match(text):
            self.found.append((node.lineno, text))
        for each in node.values:
            if isinstance(each, ast.FormattedValue):
                self.visit(each.value)


def of_module(path: Path) -> Iterator[Unmarked]:
    """Yield the texts of a Python module that are not marked."""
    visitor = _Literals()
    visitor.visit(ast.parse(path.read_text()))
    yield from (Unmarked(path, line, text) for line, text in visitor.found)


def find(paths: list[Path]) -> Iterator[Unmarked]:
    """Yield all texts that are not marked in files, or in the whole dashboard if there are none."""
    for path in paths or sorted([*UI.rglob("*.html"), *UI.rglob("*.py")]):
        yield from of_template(path) if path.suffix == ".html" else of_module(path)


if __name__ == "__main__":
    everything = list(find([Path(each).resolve() for each in sys.argv[1:]]))
    print(*everything, sep="\n")
    sys.exit(bool(everything))
