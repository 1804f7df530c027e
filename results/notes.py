"""What must stand beside the figures of a table so that nobody reads more into them than they say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from qexp.results.certificate import percent
from qexp.results.columns import Column, formula_mark, heading, pretty
from qexp.results.rows import ALIKE, Group, heading_of_key
from qexp.results.schema import INTEGER, ON, Record
from qexp.results.select import labelled, text
from qexp.results.statistics import differs

if TYPE_CHECKING:
    from qexp.results.table import Cell

ONE_MEASUREMENT = "One measurement a figure: its spread is not known, so none is marked as the best."
SPREAD = (
    "Mean ± sample standard deviation over seeds. Bold: best (↑ highest, ↓ lowest) of its column among rows of the "
    "same model, task and scale, where it differs from each of them by more than both standard deviations together."
)


def caption(records: Sequence[Record], columns: Sequence[Column]) -> str:
    """The metrics, and the model, task and scale that all share: ``Perplexity of gpt2 on ptb, scale=small``."""
    metrics = list(dict.fromkeys(column.metric for column in columns if column.setting != "outliers"))
    flats = [labelled(record.config) for record in records]
    words = " and ".join(metrics).replace("_", " ") or "outlier statistics" if columns else "runs"
    for link, key in (("of", "model.name"), ("on", "task.name")):
        names = sorted({text(flat[key]) for flat in flats if key in flat})
        if len(names) == 1:
            words += f" {link} {names[0]}"
    scales = sorted({text(flat["scale"]) for flat in flats if "scale" in flat})
    return words[0].upper() + words[1:] + (f", scale={' and '.join(scales)}" if scales else "")


def notes(
    keys: Sequence[str], groups: Sequence[Group], columns: Sequence[Column], body: Sequence[Sequence[Cell]]
) -> tuple[str, ...]:
    """Definitions, what ran in integers, how to read spread and bold, what is undecided or missing, and the scale."""
    return (
        *_definitions(keys, groups, columns, body),
        *_certificates(keys, groups, columns, body),
        *_gaps(groups, columns),
        *_reading(groups, columns, body),
        *_unfinished(keys, groups),
        *_disagreeing(keys, groups, columns),
        *uncommitted_note(record for one in groups for record in one.records),
        *scale_note(record for one in groups for record in one.records),
    )


def _definitions(
    keys: Sequence[str], groups: Sequence[Group], columns: Sequence[Column], body: Sequence[Sequence[Cell]]
) -> list[str]:
    """``name, name: definition``; where a column has several, each with the models and tasks that it holds for."""
    users: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for one, row in zip(groups, body, strict=True):
        for column, cell in zip(columns, row, strict=True):
            name = f"{column.metric.replace('_', ' ')} {formula_mark(column, columns)}".strip()
            if cell.definition:
                users[name][cell.definition][_place(keys, one)] = None
    names: dict[str, dict[str, None]] = defaultdict(dict)
    for name, definitions in users.items():
        for definition, places in definitions.items():
            where = f" ({'; '.join(places)})" if len(definitions) > 1 else ""
            names[definition][name + where] = None
    return [f"{', '.join(named)}: {definition}" for definition, named in names.items()]


def _place(keys: Sequence[str], one: Group) -> str:
    pairs = zip(keys, one.labels, strict=True)
    return ", ".join(f"{heading_of_key(key, keys)}={label}" for key, label in pairs if key.split(".")[0] in ALIKE)


def _certificates(
    keys: Sequence[str], groups: Sequence[Group], columns: Sequence[Column], body: Sequence[Sequence[Cell]]
) -> list[str]:
    """``W8A8 integer: 48 of 50 products in int8 ...``; where a column has several, each with its rows."""
    rows: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for place, column in enumerate(columns):
        for one, row in zip(groups, body, strict=True):
            if certificate := row[place].certificate:
                rows[pretty(column.setting)][certificate].append(_labels(keys, one))
    lines = []
    for setting, found in rows.items():
        for certificate, where in found.items():
            which = f" ({'; '.join(where)})" if len(found) > 1 else ""
            lines.append(f"{setting}{which}: {certificate}.")
    return lines


def _gaps(groups: Sequence[Group], columns: Sequence[Column]) -> list[str]:
    """The largest difference of each executed column from the simulated setting beside it."""
    return [_gap(column, found) for column in columns if (found := _executed(groups, column))]


def _executed(groups: Sequence[Group], column: Column) -> list[Record]:
    """Records in which the column's metric was measured both in integers and simulated; none for another column."""
    settings = (column.setting, column.setting.removesuffix(INTEGER)) if column.setting.endswith(INTEGER) else ()
    records = [record for one in groups for record in one.records] if settings else []
    return [r for r in records if all(column.metric in r.metrics.get(setting, {}) for setting in settings)]


def _gap(column: Column, records: Sequence[Record]) -> str:
    bits = column.setting.removesuffix(INTEGER)
    pairs = [(r.metrics[column.setting][column.metric].value, r.metrics[bits][column.metric].value) for r in records]
    gaps = [record.integer[bits]["gap"] for record in records]
    shares = [gap["argmax_agreement"] for gap in gaps if gap["argmax_agreement"] is not None]
    told = [f"{column.metric.replace('_', ' ')} at most {max(abs(a - b) for a, b in pairs):.4g}"]
    if ON not in column.metric:  # the logits were compared on the task's own set
        told.append(f"logits at most {max(gap['logits_max_abs'] for gap in gaps):.3g} apart")
    if shares and ON not in column.metric:
        told.append(f"{'' if min(shares) == 1 else 'at least '}{percent(min(shares))} of the largest logits the same")
    return f"{pretty(column.setting)} against {pretty(bits)}: {', '.join(told)}."


def _labels(keys: Sequence[str], one: Group) -> str:
    pairs = zip(keys, one.labels, strict=True)
    return ", ".join(f"{heading_of_key(key, keys)}={label}" for key, label in pairs)


def _reading(groups: Sequence[Group], columns: Sequence[Column], body: Sequence[Sequence[Cell]]) -> list[str]:
    summaries = [cell.summary for row in body for cell in row if cell.summary is not None]
    if not summaries:
        return []
    if all(summary.n == 1 for summary in summaries):
        return [ONE_MEASUREMENT]
    lines = [SPREAD]
    undecided = [heading(column, columns) for place, column in enumerate(columns) if _undecided(groups, body, place)]
    if undecided:
        lines.append(f"No two comparable rows differ by more than their spread in: {', '.join(undecided)}.")
    return lines


def _undecided(groups: Sequence[Group], body: Sequence[Sequence[Cell]], place: int) -> bool:
    """Whether there are rows to compare in this column, and no pair of them differs."""
    known = [(one.block, row[place].summary) for one, row in zip(groups, body, strict=True)]
    pairs = [
        (a, b)
        for i, (block, a) in enumerate(known)
        for other, b in known[i + 1 :]
        if block == other and a is not None and b is not None
    ]
    return bool(pairs) and not any(differs(a, b) for a, b in pairs)


def _unfinished(keys: Sequence[str], groups: Sequence[Group]) -> list[str]:
    return [
        f"{_labels(keys, one)}, seed={record.config.get('seed')}: {record.status}"
        + (f" ({record.message})" if record.message else "")
        for one in groups
        for record in one.records
        if record.status != "finished"
    ]


def _disagreeing(keys: Sequence[str], groups: Sequence[Group], columns: Sequence[Column]) -> list[str]:
    """Records of one row and seed whose figures are not the same: which of them the table shows."""
    told = []
    for one in groups:
        for seed in one.seeds:
            records = [record for record in one.records if record.config.get("seed") == seed]
            if unlike := [heading(column, columns) for column in columns if len(_values(records, column)) > 1]:
                what = f"{len(records)} records of seed {seed} disagree on {', '.join(unlike)}"
                told.append(f"{_labels(keys, one)}: {what}; shown is {records[-1].cell_id[:8]}.")
    return told


def _values(records: Sequence[Record], column: Column) -> set[str]:
    """The figures of a column, each once; repr makes one of all that are not finite."""
    entries = (record.metrics.get(column.setting, {}).get(column.metric) for record in records)
    return {repr(entry.value) for entry in entries if entry is not None}


def uncommitted_note(records: Iterable[Record]) -> list[str]:
    """How many records were made by files that no commit holds; nothing where there are none."""
    listed = {record.cell_id: record for record in records}.values()
    dirty = sum(bool((one.provenance.get("git") or {}).get("dirty")) for one in listed)
    if not dirty:
        return []
    return [f"{dirty} of {len(listed)} records come from a checkout with changes that were not committed."]


def scale_note(records: Iterable[Record]) -> list[str]:
    """What figures measured below the paper's scale are not; nothing where there are none."""
    scales = {str(record.config.get("scale", "")) for record in records} - {"", "paper"}
    if not scales:
        return []
    return [f"Measured at scale={' and '.join(sorted(scales))}: no reproduction of figures measured at scale=paper."]
