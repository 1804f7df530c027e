"""The embedded corpora: English prose that ships with every Python.

``pydoc_data`` holds the chapters behind ``help("if")``; the standard library's sources hold docstrings, which are taken
out with ``ast``, so that nothing is imported. Texts differ a little between Python versions: figures made with these
corpora are compared on one Python.
"""

from __future__ import annotations

import ast
import platform
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from itertools import accumulate, groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple, TypeVar

from qexp.conf.errors import UserError

AREAS: dict[str, tuple[str, ...]] = {
    "concurrency": (
        *("asyncio", "concurrent", "multiprocessing", "threading", "_threading_local", "queue", "sched", "selectors"),
        *("subprocess", "contextvars", "signal"),
    ),
    "files": (
        *("pathlib", "shutil", "os", "posixpath", "ntpath", "genericpath", "tempfile", "glob", "fnmatch", "zipfile"),
        *("tarfile", "gzip", "bz2", "lzma", "fileinput", "filecmp", "stat", "_pyio", "_compression"),
    ),
    "internet": (
        *("http", "urllib", "wsgiref", "xmlrpc", "ftplib", "smtplib", "poplib", "imaplib", "nntplib", "telnetlib"),
        *("webbrowser", "ssl", "socket", "socketserver", "ipaddress"),
    ),
    "language": (
        *("importlib", "inspect", "ast", "_ast_unparse", "dis", "typing", "types", "pkgutil", "symtable", "tokenize"),
        *("pickletools", "abc", "_py_abc", "enum", "dataclasses", "runpy", "modulefinder", "zipimport", "opcode"),
        *("compileall", "pyclbr", "code", "codeop"),
    ),
    "numbers": (
        *("_pydecimal", "decimal", "datetime", "_pydatetime", "statistics", "fractions", "random", "numbers"),
        *("calendar", "zoneinfo", "_strptime", "_pylong", "colorsys"),
    ),
    "testing": (
        *("unittest", "doctest", "pdb", "bdb", "cProfile", "profile", "pstats", "trace", "traceback", "tracemalloc"),
        *("timeit", "warnings"),
    ),
}
"""Label -> modules of the standard library, all in the smallest Debian and python.org installations alike."""

NOT_PROSE = {"idlelib", "tkinter", "turtledemo", "lib2to3", "distutils", "ensurepip", "encodings", "pydoc_data"}
"""Left out: what distributions package apart, and what only repeats itself."""

MIN_WORDS = 6
MIN_EXAMPLES_PER_LABEL = 100
LABELLED_SHARES = {"validation": 20}
TEXT_SHARES = {"validation": 5, "test": 5}
"""Per cent of a corpus in each held-out split; the rest is for training."""

Row = tuple[str, str]
"""Two strings: a text and where it belongs (label or document), or a document and its text."""
T = TypeVar("T")


class Docstring(NamedTuple):
    """What a source file says of one of its definitions."""

    file: str
    name: str
    """Of the class or function; empty for the module's own."""
    text: str


def origin() -> str:
    return f"the standard library of Python {platform.python_version()}"


@cache
def labelled_splits() -> dict[str, list[Row]]:
    """Docstrings with their area, without repetitions and without texts that stand in several areas.

    Split by a hash of the text and ordered by it, so that neither changes when other texts come or go.
    """
    texts: dict[str, Row] = {}
    areas: dict[str, set[str]] = {}
    for area, modules in AREAS.items():
        for module in modules:
            for docstring in _docstrings(module):
                text = " ".join(docstring.text.split())
                key = _key(text)
                areas.setdefault(key, set()).add(area)
                texts.setdefault(key, (text, area))
    rows = sorted((digest_of(k), row) for k, row in texts.items() if len(areas[k]) == 1 and is_prose(row[0]))
    _require_enough([area for _, (_, area) in rows])
    return split_by(rows, LABELLED_SHARES)


@cache
def text_splits() -> dict[str, list[Row]]:
    """Paragraphs of the help chapters and of every module's docstrings, none twice, split by whole documents."""
    seen: set[str] = set()
    rows: list[tuple[str, Row]] = []
    for document, text in _documents():
        for paragraph in re.split(r"\n\s*\n", text):
            key = _key(paragraph)
            if key not in seen and is_prose(paragraph):
                seen.add(key)
                rows.append((digest_of(document), (paragraph, document)))
    return split_by(rows, TEXT_SHARES)


def split_by(rows: Sequence[tuple[str, T]], shares: Mapping[str, int]) -> dict[str, list[T]]:
    """Rows with the digest that decides their split: evenly spread, and the same whatever other rows there are."""
    ends = dict(zip(shares, accumulate(shares.values()), strict=True))
    splits: dict[str, list[T]] = {name: [] for name in ("train", *shares)}
    for digest, row in rows:
        place = int(digest[-8:], 16) % 100
        splits[next((name for name, end in ends.items() if place < end), "train")].append(row)
    return splits


def _documents() -> Iterator[Row]:
    """Document name and text: every help chapter, and the docstrings of every source file as one text."""
    for name, text in sorted(_help_topics().items()):
        yield f"topic {name}", text
    for file, its_own in docstrings_by_file():
        yield f"file {file}", "\n\n".join(docstring.text for docstring in its_own)


def docstrings_by_file() -> Iterator[tuple[str, Iterator[Docstring]]]:
    """Those of the whole standard library: every source file that has some, with all of them."""
    modules = sorted(sys.stdlib_module_names - NOT_PROSE)
    return groupby((one for module in modules for one in _docstrings(module)), key=attrgetter("file"))


def _help_topics() -> dict[str, str]:
    try:
        from pydoc_data import topics
    except ImportError:
        return {}
    return dict(topics.topics)


def _docstrings(module: str) -> Iterator[Docstring]:
    """All of a module or package of the standard library, in the order of its sources."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in _sources(library, module):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue
        name = path.relative_to(library).as_posix()
        yield from (Docstring(name, *documented) for documented in _documented_in(tree))


def _sources(library: Path, module: str) -> list[Path]:
    if (library / f"{module}.py").is_file():
        return [library / f"{module}.py"]
    files = sorted((library / module).rglob("*.py"))
    return [path for path in files if not {"test", "tests"} & set(path.relative_to(library).parts)]


def _documented_in(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Name and docstring of the module, its classes and functions, in the order of the source."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                yield getattr(node, "name", ""), docstring
        waiting += [child for child in reversed(list(ast.iter_child_nodes(node))) if isinstance(child, ast.stmt)]


def is_prose(text: str) -> bool:
    return len(re.findall(r"[A-Za-z]{2,}", text)) >= MIN_WORDS


def _key(text: str) -> str:
    """What two texts share that are the same but for case, spacing and punctuation."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def digest_of(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _require_enough(labels: list[str]) -> None:
    poor = [area for area in AREAS if labels.count(area) < MIN_EXAMPLES_PER_LABEL]
    if poor:
        raise UserError(
            f"this Python's standard library ({sysconfig.get_path('stdlib')}) has too few sources for "
            f"task=pydocs_labels ({', '.join(poor)}); use a Python with its .py files installed"
        )
