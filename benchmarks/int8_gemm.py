"""The int8 product and the fused linear layer beside fp32 and the peers, on the shapes of three models.

Run with: python benchmarks/int8_gemm.py
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from child import in_child, modes
from measure import Report, Result, summary, timed
from peers import convert, inspect_all, silence
from tables import faster, markdown
from workloads import back_ends, minilm, threads

BLOCKS = {
    "BERT-base": {(768, 768): 4, (768, 3072): 1, (3072, 768): 1},
    "GPT-2": {(768, 2304): 1, (768, 768): 1, (768, 3072): 1, (3072, 768): 1},
    "MiniLM": {(384, 384): 4, (384, 1536): 1, (1536, 384): 1},
}
"""Model -> its linear layers in one block: (inputs K, outputs N) -> how many."""
SHAPES = sorted({shape for block in BLOCKS.values() for shape in block})
ROWS = (1, 8, 64, 128, 256, 1024)
KINDS = ("per tensor", "per channel", "uniform")
PRETRAINED = {(384, 384): "attention.self.query", (384, 1536): "intermediate.dense", (1536, 384): "output.dense"}
TURNS, BUDGET = 9, 0.25
QUARTILES = ("wall_ms", "cpu_ms", "speed")
GEMM, LINEAR = "int32 product", "linear layer"


def figures(peers: list[str]) -> dict[str, Any]:
    """Every cell of this process's instruction set: operation, shape, rows, threads, candidate -> its summary."""
    import torch

    silence()
    cells = []
    with torch.no_grad():
        for shape in SHAPES:
            products, layers = make_products(shape), make_layers(shape, peers)
            for count in threads():
                torch.set_num_threads(count)
                for rows in ROWS:
                    for operation, candidates in ((GEMM, products(rows)), (LINEAR, layers(rows))):
                        where = {"operation": operation, "shape": shape, "rows": rows, "threads": count}
                        cells += [{**where, **cell} for cell in measure_cell(candidates)]
    return {"back_ends": back_ends(), "cells": cells}


def measure_cell(candidates: Mapping[str, Callable[[], object]]) -> Iterable[dict[str, Any]]:
    timings = timed(candidates, TURNS, BUDGET)
    return [{"candidate": name, **summary(timing, timings["fp32"])} for name, timing in timings.items()]


def make_products(shape: tuple[int, int]) -> Callable[[int], dict[str, Callable[[], object]]]:
    """Codes to int32 sums, weights packed beforehand; every kind of weights on the back end that ``auto`` takes."""
    import torch

    from qexp.kernels.int8 import int8_matmul, pack_weight

    weight = float_weight(shape)
    names = back_ends()
    packed = {kind: pack_weight(quantized(weight, kind)[0], names[0]) for kind in KINDS}
    others = {name: pack_weight(quantized(weight, KINDS[0])[0], name) for name in names[1:]}

    def candidates(rows: int) -> dict[str, Callable[[], object]]:
        x = torch.randn(rows, shape[0])
        codes = (x * 32 + 128).round().clamp(0, 255).to(torch.uint8)
        found: dict[str, Callable[[], object]] = {"fp32": lambda: torch.nn.functional.linear(x, weight)}
        found |= {f"{names[0]}, {kind}": lambda b=b: int8_matmul(codes, b) for kind, b in packed.items()}
        return found | {f"{name}, {KINDS[0]}": lambda b=b: int8_matmul(codes, b) for name, b in others.items()}

    return candidates


def make_layers(shape: tuple[int, int], peers: list[str]) -> Callable[[int], dict[str, Callable[[], object]]]:
    """float32 to float32 with a bias: quantizing the input, the product, the rescaling, all included."""
    import torch

    from qexp.kernels.int8 import int8_linear, pack_weight
    from qexp.kernels.quantize import qparams_from_range

    calibration = torch.randn(256, shape[0])
    grid = qparams_from_range(calibration.min(), calibration.max(), 8, symmetric=False)
    weight, bias = float_weight(shape), torch.randn(shape[1])
    codes, scale = quantized(weight, KINDS[0])
    packed = {name: pack_weight(codes, name) for name in back_ends()}
    theirs = {name: convert(name, layer_of(weight, bias), lambda layer: layer(calibration)) for name in peers}

    def candidates(rows: int) -> dict[str, Callable[[], object]]:
        x = torch.randn(rows, shape[0])
        found: dict[str, Callable[[], object]] = {"fp32": lambda: torch.nn.functional.linear(x, weight, bias)}
        found |= {name: lambda b=b: int8_linear(x, b, grid, scale, bias) for name, b in packed.items()}
        return found | {name: lambda layer=layer: layer(x) for name, layer in theirs.items()}

    return candidates


def layer_of(weight: Any, bias: Any) -> Any:
    from torch import nn

    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return nn.Sequential(layer).eval()


def float_weight(shape: tuple[int, int]) -> Any:
    """[N, K]: MiniLM's own of its fourth layer where the shape is one of its; else normal, seed 0."""
    import torch

    if shape in PRETRAINED:
        return minilm().encoder.layer[3].get_submodule(PRETRAINED[shape]).weight.detach()
    return torch.randn(shape[1], shape[0], generator=torch.Generator().manual_seed(0))


def quantized(weight: Any, kind: str) -> tuple[Any, Any]:
    """Symmetric int8 codes and scale; ``uniform``: all codes equally likely, what no training gives."""
    import torch

    if kind == "uniform":
        codes = torch.randint(-127, 128, weight.shape, generator=torch.Generator().manual_seed(0))
        return codes.to(torch.int8), torch.tensor(0.01)
    scale = (weight.abs().amax(1, keepdim=True) if kind == "per channel" else weight.abs().amax()) / 127
    return (weight / scale).round().to(torch.int8), scale.flatten()


def measure() -> Report:
    results, text, kept = [], "", {}
    for mode, environment in modes().items():
        inspected = inspect_all(environment)
        peers = [name for name, facts in inspected.items() if "failed" not in facts]
        found = in_child("int8_gemm", "figures", peers, limit=1800, **environment)
        kept[mode] = {"peers": inspected, "back_ends": found["back_ends"], **as_table(found["cells"])}
        results += goals(mode, found)
        text += f"\n### {mode[0].upper()}{mode[1:]}\n{executed_table(inspected)}{tables(found)}"
    return Report(results, f"\n## Integer products and layers\n{INTRODUCTION}{text}", kept)


def as_table(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Cells as columns and rows, which is short enough to keep them all."""
    columns = [f"{key}, {edge}" for key in QUARTILES for edge in ("lower quartile", "median", "upper quartile")]
    rows = [
        [cell["operation"], *cell["shape"], cell["rows"], cell["threads"], cell["candidate"]]
        + [figure for key in QUARTILES for figure in cell[key]]
        + [cell["turns"]]
        for cell in cells
    ]
    return {"columns": ["operation", "K", "N", "M", "threads", "candidate", *columns, "turns"], "rows": rows}


INTRODUCTION = """
Figures are how many times faster than fp32 (MKL) in the same turns, on one / two threads; above 1 is faster. A row is
all linear layers of one block of a model at M rows (tokens). *int32 product*: codes in, sums out, weights packed
beforehand. *linear layer*: float32 in and out, quantizing, product, rescaling and bias included. MiniLM's weights are
its own, the others normally distributed; `uniform` weights use all codes equally often.

What each library really executed was taken from torch's profiler. *Ones* is what a layer of 768 ones gives for an input
of ones: 768, unless sums saturate on the way. Of GPT-2's 48 linear layers, which transformers writes as `Conv1D`, the
last column counts those that the library's own conversion made INT8. fbgemm quantizes activations to 7 bits by default,
which keeps AVX2 from saturating.
"""


def executed_table(inspected: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, facts in inspected.items():
        if "failed" in facts:
            rows.append([name, f"did not run: {facts['failed']}", "", ""])
            continue
        converted = "" if facts["conv1d"] is None else f"{facts['conv1d']} of 48"
        products = ", ".join(f"`{product}`" for product in facts["products"]) or "no product seen"
        rows.append([f"{name} {facts['version']}", products, f"{facts['ones']:.1f}", converted])
    return markdown(["library", "product dispatched", "ones (768)", "GPT-2 layers"], rows)


def tables(found: dict[str, Any]) -> str:
    return "".join(operation_table(operation, found["cells"]) for operation in (GEMM, LINEAR)) + spread(found["cells"])


def operation_table(operation: str, cells: list[dict[str, Any]]) -> str:
    """One row a model and M; a cell sums the medians of the block's layers, for each number of threads."""
    chosen = [cell for cell in cells if cell["operation"] == operation]
    names = list(dict.fromkeys(cell["candidate"] for cell in chosen))
    wall = {(*cell["shape"], cell["rows"], cell["threads"], cell["candidate"]): cell["wall_ms"][1] for cell in chosen}

    def block(model: str, rows: int, count: int, name: str) -> float:
        return sum(often * wall[(*shape, rows, count, name)] for shape, often in BLOCKS[model].items())

    lines = []
    for model in BLOCKS:
        for rows in ROWS:
            base = [block(model, rows, count, "fp32") for count in threads()]
            line = [model, str(rows), " / ".join(f"{time:.3g} ms" for time in base)]
            for name in names[1:]:
                ratios = [b / block(model, rows, count, name) for b, count in zip(base, threads(), strict=True)]
                line.append(faster(ratios))
            lines.append(line)
    return f"\n*{operation}*\n" + markdown(["block of", "M", *names], lines)


def spread(cells: list[dict[str, Any]]) -> str:
    half = sorted((cell["speed"][2] - cell["speed"][0]) / 2 / cell["speed"][1] for cell in cells)
    typical, wide = statistics.median(half), half[int(0.95 * len(half))]
    what = "Half the distance of the quartiles"
    return f"\n{what}: {typical:.1%} of the median in the typical cell, {wide:.1%} in one of 20.\n"


def goals(mode: str, found: dict[str, Any]) -> list[Result]:
    ours = found["back_ends"][0]
    cells = [cell for cell in found["cells"] if cell["operation"] == GEMM]
    large = [cell for cell in cells if cell["rows"] >= 64]
    of = {kind: [cell for cell in large if cell["candidate"] == f"{ours}, {kind}"] for kind in KINDS}
    any_rows = [cell for cell in cells if cell["rows"] >= 8 and cell["candidate"].startswith(f"{ours}, ")]
    what = f"{mode}: exact int8 product ({ours})"
    return [
        slowest(f"{what}, M >= 64, per-tensor weights", of["per tensor"], 1.65),
        slowest(f"{what}, M >= 64, any weights", sum(of.values(), []), 1.35),
        slowest(f"{what}, M >= 8, any weights", any_rows, 1.0),
    ]


def slowest(what: str, cells: list[dict[str, Any]], limit: float) -> Result:
    """Every cell must reach ``limit``; given are the median cell, the slowest, and how many miss it."""
    ordered = sorted(cells, key=lambda cell: cell["speed"][1])
    speeds, worst = [cell["speed"][1] for cell in ordered], ordered[0]
    missed = sum(speed < limit for speed in speeds)
    where = (
        f"{worst['candidate']}, {worst['shape'][0]}x{worst['shape'][1]}, M {worst['rows']}, threads {worst['threads']}"
    )
    range_ = f"slowest {speeds[0]:.2f} x ({where}); {missed} of {len(speeds)} cells below the goal"
    goal = f"at least {limit:.2f} x in every cell"
    return Result(what, f"{statistics.median(speeds):.2f} x as fast", range_, "fp32 (MKL)", goal, not missed)


if __name__ == "__main__":
    report = measure()
    print(*report.results, report.text, sep="\n")
