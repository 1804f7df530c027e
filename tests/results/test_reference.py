"""What is committed under ``results/reference`` belongs together."""

from __future__ import annotations

import json
import re
from collections import defaultdict

import pytest

from qexp.results.library import REFERENCE, committed

PAGE = REFERENCE / "report.html"
FOLDERS = [folder.name for folder in committed()]


def records(folder: str) -> set[str]:
    return {file.stem for file in (REFERENCE / folder / "records").glob("*.json")}


@pytest.fixture(scope="module")
def shown() -> set[str]:
    """The records that the page names, read once: it has six megabytes."""
    return set(re.findall(r"\b[0-9a-f]{16}\b", PAGE.read_text()))


@pytest.mark.parametrize("folder", FOLDERS)
def test_page_shows_every_record(folder: str, shown: set[str]) -> None:
    assert records(folder) <= shown, "`qexp report --results-dir results/reference --to results/reference/report.html`"


@pytest.mark.parametrize("folder", FOLDERS)
def test_readme_says_what_a_table_shows(folder: str) -> None:
    named = re.findall(r"^\|(.+?)\|", (REFERENCE / "README.md").read_text(), re.MULTILINE)
    assert any(f"`{name}`" in "".join(named) for name in (folder, folder.split(".")[-1]))


def test_tables_that_share_an_experiment_show_one_measurement_of_it() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for file in REFERENCE.glob("*/records/*.json"):
        found[file.stem].add(json.dumps(json.loads(file.read_text())["metrics"], sort_keys=True))
    assert [cell for cell, metrics in found.items() if len(metrics) > 1] == []


def test_page_names_no_folder_of_its_maker() -> None:
    assert not re.findall(r"(?:/home|/root|/tmp|[A-Z]:\\)[/\\\w.]*", PAGE.read_text())


def test_there_is_something_to_check() -> None:
    assert len(FOLDERS) > 30
    assert PAGE.is_file()
