"""A record on one screen: figures beside the float ones, outliers, where it lies and how to see it again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qexp.cli.analysis import print_analysis
from qexp.cli.certificate import print_executed
from qexp.cli.progress import duration
from qexp.results.schema import INTEGER, ON, OWN, Metric, Record
from qexp.results.select import model_label
from qexp.results.store import Store

Metrics = Mapping[str, Metric]
STATUS_STYLE = {"finished": "green"}


def print_summary(console: Console, record: Record, store: Store) -> None:
    """Print ``record`` of ``store``, beside the baseline's if there is one. Metrics are defined below the figures."""
    path = store.path(record.config["table"], record.cell_id)
    _print_head(console, record)
    if record.metrics:
        console.print(_figures(record, _baseline(record, store)))
    for name, definition in _definitions(record).items():
        console.print(f"[dim]{name}: {escape(definition)}[/]", highlight=False)
    print_executed(console, record)
    _print_outliers(console, record)
    print_analysis(console, record)
    lines = {"record": str(path)}
    if record.artifacts:
        lines["pictures"] = f"{len(record.artifacts)} in {(path.parent / next(iter(record.artifacts.values()))).parent}"
    for name, text in lines.items():
        console.print(f"{name:<9} {text}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"again     qexp show {record.cell_id[:8]}", highlight=False)


def _print_head(console: Console, record: Record) -> None:
    config = record.config
    methods = " + ".join(choice["name"] for choice in config["method"])
    names = [methods, model_label(config["model"]), config["task"]["name"]]
    style = STATUS_STYLE.get(record.status, "red")
    seconds = sum(record.timings.values())
    took = f" in {duration(seconds)}" if seconds else ""
    console.print(
        f"[bold]{escape(' · '.join(names))}[/] · scale {config['scale']} · seed {config['seed']}\n"
        f"[{style}]{record.status}[/]{took}",
        highlight=False,
    )
    if record.message:
        console.print(record.message, style="red", markup=False)


def _baseline(record: Record, store: Store) -> Record | None:
    """The record of the same experiment without its methods, if it was run."""
    from qexp.runner.identity import cell_id
    from qexp.runner.rerun import baseline_of

    config = baseline_of(record.config)
    return None if config is None else store.load(cell_id(config))


def _figures(record: Record, baseline: Record | None) -> Table:
    """One row a setting; each metric with its difference from the float model's. The baseline's float model is last.

    The further sets stand below the task's own, each in the same form: however many there are, it is as wide.
    """
    grid = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    measured = list(dict.fromkeys(name for by_name in record.metrics.values() for name in by_name))
    names = [name for name in measured if ON not in name]
    grid.add_column("setting")
    for name in names:
        grid.add_column(name.replace("_", " "), justify="right")
        grid.add_column("difference", justify="right", style="dim")
    for place in dict.fromkeys(name.partition(ON)[2] for name in measured):
        keys = [f"{name}{ON}{place}" if place else name for name in names]
        for label, found, other in _rows(record, baseline):
            cells = (cell for key in keys for cell in _value_and_difference(found.get(key), other.get(key)))
            if found.keys() & set(keys):
                grid.add_row(escape(f"{label} on {place}" if place else label), *cells)
    return grid


def _rows(record: Record, baseline: Record | None) -> Iterator[tuple[str, Metrics, Metrics]]:
    """Label, metrics, and the metrics that they are compared with."""
    base = record.metrics.get("float", {})
    for setting, by_name in record.metrics.items():
        yield _named(setting, record), by_name, {} if setting == "float" else base
    if baseline is not None and "float" in baseline.metrics:
        yield f"{baseline.config['method'][0]['name']} float", baseline.metrics["float"], base


def _named(setting: str, record: Record) -> str:
    """``w8a8``, or where it was also executed ``w8a8 simulated`` and ``w8a8 executed``."""
    bits = setting.removesuffix(INTEGER)
    if bits == OWN:
        return (
            f"{' + '.join(m['name'] for m in record.config['method'])} {'simulated' if setting == OWN else 'executed'}"
        )
    return setting if bits not in record.integer else f"{bits} {'simulated' if setting == bits else 'executed'}"


def _value_and_difference(metric: Metric | None, base: Metric | None) -> tuple[str, str]:
    if metric is None:
        return "–", ""
    return format_figure(metric.value), f"{format_figure(metric.value - base.value, '+')}" if base else ""


def format_figure(value: float, sign: str = "") -> str:
    """Four significant digits, thousands separated."""
    if not math.isfinite(value):
        return "not finite"
    if abs(value) >= 1e6:
        return format(value, f"{sign}.3e")
    digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 1
    return format(value, f"{sign},.{min(digits, 4)}f")


def _definitions(record: Record) -> dict[str, str]:
    """Of a metric on a further set only what differs from the task's own."""
    metrics = (item for by_name in record.metrics.values() for item in by_name.items())
    found = {name: metric.definition for name, metric in metrics if metric.definition}
    told = {}
    for name, definition in found.items():
        metric, _, place = name.partition(ON)
        if place:
            common = found.get(metric, "").split("; ")
            definition = "; ".join(["the same", *(part for part in definition.split("; ") if part not in common)])
        told[f"{metric} on {place}" if place else metric.replace("_", " ")] = definition
    return told


def _print_outliers(console: Console, record: Record) -> None:
    found = record.outliers.get("summary", {})
    labels = {"max_inf_norm": "max inf norm", "avg_kurtosis": "average kurtosis", "max_kurtosis": "max kurtosis"}
    shown = [f"{label} {_outlier(found[key])}" for key, label in labels.items() if key in found]
    if shown:
        console.print(f"outliers of the float model: {', '.join(shown)}", highlight=False)


def _outlier(value: float | None) -> str:
    return format_figure(math.nan if value is None else value)
