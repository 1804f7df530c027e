"""What really ran in integers, on the terminal: a few lines after a run, every product for ``qexp show``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from qexp.results import certificate as words
from qexp.results.schema import Record


def print_executed(console: Console, record: Record) -> None:
    """The gap and the certificate of each executed setting in a few lines, and of a training step where it has one."""
    for bits, found in record.integer.items():
        proof, gap = found["certificate"], found.get("gap")
        if not proof["products"]:
            console.print(f"[bold]{bits}: simulated, not executed[/] · {words.in_float(proof)}", highlight=False)
            continue
        _print_lines(
            console,
            f"{bits} executed in integers",
            {
                "gap": " · ".join(filter(None, _gap(record, gap))) if gap else "",
                "control": words.control(gap) if gap else "",
                **_proof(proof),
                "weights": f"{words.weights(proof)} in memory" if words.weights(proof) else "",
            },
        )
    for method, proof in record.training.get("certificates", {}).items():
        _print_lines(console, f"{method}: a training step", _proof(proof))
    if told := record.training.get("precision"):
        _print_lines(console, f"trained in {told['precision']}", _precision(told))


def _precision(told: Mapping[str, Any]) -> dict[str, str]:
    """The format's certificate, what it lost of the gradients at the last logged step, and the loss scale."""
    gradients = {name: share for name, share in told["tensors"].items() if name.endswith(".gradient")}
    worst = max(gradients, key=lambda name: float(gradients[name]["underflow"]), default="")
    lost = f"most behind {worst.removesuffix('.gradient')}: {gradients[worst]['underflow']:.1%}" if worst else ""
    skipped = f", {told['skipped_steps']} steps left out" if told["skipped_steps"] else ""
    return {
        "certificate": words.formats(told["certificate"]),
        "underflow": f"gradients that round to zero, at the last logged step {lost}" if lost else "",
        "loss scale": f"{told['loss_scale']:g}{skipped}" if told["loss_scale"] != 1.0 or skipped else "",
    }


def _proof(proof: Mapping[str, Any]) -> dict[str, str]:
    return {
        "certificate": f"{words.products(proof)} · {words.back_end(proof)}, {words.threads(proof)}",
        "in float": words.in_float(proof),
    }


def _print_lines(console: Console, heading: str, lines: Mapping[str, str]) -> None:
    console.print(f"[bold]{heading}[/]", highlight=False)
    for name, text in lines.items():
        if text:
            console.print(f"  {name:<11} {text}", markup=False, highlight=False, soft_wrap=True)


def _gap(record: Record, gap: Mapping[str, Any]) -> list[str]:
    primary = next(iter(record.metrics["float"])).replace("_", " ")
    return [
        f"{primary} {gap['metric']:+.4g} against simulated",
        words.agreement(gap),
        f"logits at most {gap['logits_max_abs']:.3g} apart, {gap['logits_mean_abs']:.2g} on average",
    ]


def print_certificate(console: Console, bits: str, proof: Mapping[str, Any]) -> None:
    """The whole certificate: one row a product, what stayed in floating point and why, every other operation."""
    console.print(f"\n[bold]certificate of {bits}[/] · {words.products(proof)}", highlight=False)
    integers = [
        [*(product[key] for key in ("name", "kind", "op")), _types(product), product["backend"], str(product["calls"])]
        for product in proof["products"]
    ]
    _print_grid(console, ("product", "kind", "op", "codes", "back end", "calls"), integers)
    if proof["in_float"]:
        floats = [[*(str(product[key]) for key in ("name", "op", "why", "calls"))] for product in proof["in_float"]]
        _print_grid(console, ("product in float", "op", "why", "calls"), floats)
    others = ", ".join(f"{name} {calls:,}" for name, calls in proof["float_operations"].items())
    tables = words.by_role(f"{table['name']} ({table['stored']})" for table in proof["embeddings"])
    lines = {"embeddings": tables, "weights": words.weights(proof) or "", "other operations in float": others}
    for name, text in lines.items():
        if text:
            console.print(f"{name}: {text}", markup=False, highlight=False, soft_wrap=True)


def _types(product: Mapping[str, Any]) -> str:
    return f"{product['input']} × {product['weight']} → {product['accumulator']}"


def _print_grid(console: Console, headings: tuple[str, ...], rows: list[list[str]]) -> None:
    """Aligned columns whose lines are never broken: there is a row a product, and each should stay one line."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row, style in ((headings, "bold"), *((row, "") for row in rows)):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        console.print(line.rstrip(), style=style, markup=False, highlight=False, soft_wrap=True)
