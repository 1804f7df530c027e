"""What really ran, in words; and executed figures that nothing proves are no record."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from qexp.results.certificate import agreement, by_role, in_float, megabytes, percent, sentence, threads, weights
from qexp.results.export import to_csv, to_html, to_latex, to_markdown
from qexp.results.schema import Record
from qexp.results.store import from_json, to_json
from qexp.results.table import build

Make = Callable[..., Record]
CERTIFICATE = (
    "3 of 4 products in int8: 1 linear, 2 attention; back end avx2; in float: classifier (the head has no sites)"
)
GAP = "W8A8 integer against W8A8: perplexity at most 0.5, logits at most 0.0123 apart, at least 99.95 % of the largest"


@pytest.fixture
def record(make: Make) -> Record:
    return make(float=65.0, w8a8=66.0, w8a8_integer=66.5)


@pytest.fixture
def certificate(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = record.integer["w8a8"]["certificate"]
    return found


def test_a_record_with_a_certificate_survives_writing_and_reading(record: Record) -> None:
    assert from_json(to_json(record)) == record


@pytest.mark.parametrize(
    "integer", [{}, {"w8a8": {}}, {"w8a8": {"certificate": {"products": []}}}, {"w4a8": {"certificate": {}}}]
)
def test_executed_figures_without_a_product_in_integers_are_no_record(record: Record, integer: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"w8a8\.integer have no certificate"):
        replace(record, integer=integer)
    with pytest.raises(ValueError, match="no certificate"):
        from_json(json.dumps({**record.to_dict(), "integer": integer}))


def test_an_older_record_without_the_key_is_read(make: Make) -> None:
    data = make(float=65.0).to_dict()
    del data["integer"]
    assert from_json(json.dumps(data)).integer == {}


def test_the_certificate_in_one_line(certificate: dict[str, Any]) -> None:
    assert sentence(certificate) == CERTIFICATE
    assert sentence({**certificate, "in_float": []}).startswith("3 of 3 products in int8: ")
    elsewhere = {**certificate, "backend": "vnni", "isa": "avx512_vnni"}
    assert "back end vnni (avx512_vnni), avx2 for 3;" in sentence(elsewhere)
    assert (threads(certificate), threads({"threads": 2})) == ("1 thread", "2 threads")
    assert weights(certificate) == "10.6 MB instead of 42.0 MB (0.252 ×)"


def test_layers_are_counted_by_role() -> None:
    assert by_role(["layers.0.context", "layers.11.context", "lm_head"]) == "context × 2, lm_head"
    why = "its input layers.{}.context is not quantized"
    stayed = [{"name": f"layers.{i}.attention_output", "why": why.format(i)} for i in (0, 1, 1)]
    assert in_float({"in_float": stayed}) == "attention_output × 2 (its input context is not quantized)"


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100 %"), (0.99999, "99.99 %"), (0.5, "50.00 %"), (0.0, "0.00 %"), (0.57, "57.00 %")]
)
def test_all_is_all(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_regression_has_no_largest_logit(record: Record) -> None:
    gap = record.integer["w8a8"]["gap"]
    assert agreement(gap) == "99.95 % of 872 largest logits the same"
    assert agreement({**gap, "argmax_agreement": None}) == ""


@pytest.mark.parametrize(("size", "text"), [(90_900_000, "90.9 MB"), (1_234_500_000, "1,234.5 MB"), (4_200, "4.2 kB")])
def test_sizes(size: int, text: str) -> None:
    assert megabytes(size) == text


def test_a_table_says_under_it_what_ran(record: Record) -> None:
    table = build([record])
    assert table.headings[2:] == ("float ↓", "W8A8 ↓", "W8A8 integer ↓")
    assert f"W8A8 integer: {CERTIFICATE}." in table.notes
    assert any(note.startswith(GAP) for note in table.notes)
    for text in (to_markdown(table), to_latex(table), to_html(table), to_csv(table)):
        assert "products in int8" in text
    assert not [note for note in build([record], columns=["float", "w8a8"]).notes if "int8" in note]


def test_unlike_certificates_name_their_rows(make: Make) -> None:
    first, other = (make(method, float=1.0, w8a8=1.0, w8a8_integer=1.0) for method in ("vanilla", "gated_attention"))
    other.integer["w8a8"]["certificate"]["backend"] = "reference"
    notes = build([first, other]).notes
    assert sum("products in int8" in note for note in notes) == 2
    assert any(note.startswith("W8A8 integer (method=gated_attention): ") for note in notes)


def test_executing_too_makes_no_row_of_its_own(make: Make) -> None:
    plain = make(float=65.0, w8a8=66.0, changes={"eval.integer": False})
    both = make(float=65.0, w8a8=66.0, w8a8_integer=66.5, changes={"eval.integer": True})
    older = make(seed=2, float=65.0, w8a8=66.0)
    assert len(build([plain, both, older]).cells) == 1
