"""The int8 linear layer on a GPU beside the vendor's bare int8 product and its bf16 layer, on the shapes of OPT-1.3B.

Run with: python benchmarks/int8_gpu.py; without a GPU it says so and ends.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from measure import Report, Result, by_turns, quartiles
from tables import markdown

SHAPES = ((2048, 2048), (2048, 8192), (8192, 2048))
"""(inputs K, outputs N) of the attention's layers and of the two feed-forward layers of OPT-1.3B."""
ROWS = (1, 16, 64, 256, 1024, 4096, 8192, 16384)
LARGE = 4096
TURNS, SECONDS = 9, 0.05
VENDOR, FLOAT, OURS, OURS_GRAPH = "torch._int_mm, bare", "bf16 linear", "triton", "triton, CUDA graph"
GOALS = {VENDOR: 0.85, FLOAT: 1.5}

INTRODUCTION = """
*triton*: `int8_linear`, all included: quantizing bf16 inputs, the product, zero points, scales and bias, the check for
NaN, to float32. *CUDA graph*: the same without Python between the kernels (and without the check, which needs the
host). *cuda*: the same layer composed of torch's operators round `torch._int_mm`. The vendor's product alone gets its
codes for nothing and leaves sums in int32. Figures are TOP/s (2 M N K a call), medians of turns.
"""


def measure() -> Report:
    missing = unavailable()
    if missing is not None:
        return Report([], f"\n## Integer layers on a GPU\n\nNot measured: {missing}.\n")
    import torch

    cells = [cell(m, k, n) for k, n in SHAPES for m in ROWS]
    device = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    text = f"\n## Integer layers on a GPU\n\n{device}.\n{INTRODUCTION}{table(cells)}{smallest(cells)}"
    return Report([goal(name, limit, cells) for name, limit in GOALS.items()], text, cells)


def unavailable() -> str | None:
    from qexp.kernels.int8.backends import find

    return find("triton").unavailable()


def cell(m: int, k: int, n: int) -> dict[str, Any]:
    """Seconds of a call, turn by turn, of every candidate at one size."""
    calls = candidates(m, k, n)
    repeats = {name: max(1, int(SECONDS / per_call(call, 3))) for name, call in calls.items()}
    actions = {name: lambda name=name: per_call(calls[name], repeats[name]) for name in calls}
    return {"m": m, "k": k, "n": n, "seconds": by_turns(actions, TURNS)}


def candidates(m: int, k: int, n: int) -> dict[str, Callable[[], object]]:
    import torch

    from qexp.kernels.int8 import int8_linear, pack_weight, quantize_codes
    from qexp.kernels.quantize import qparams_from_range

    torch.manual_seed(0)
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    float_weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
    bias = torch.randn(n, device="cuda")
    grid = qparams_from_range(x.min(), x.max(), 8, symmetric=False)
    codes = torch.randint(-127, 128, (n, k), dtype=torch.int8, device="cuda")
    scale = torch.rand(n, device="cuda") * 1e-3
    packed = {name: pack_weight(codes, name) for name in ("triton", "cuda")}
    layers = {name: lambda b=b: int8_linear(x, b, grid, scale, bias) for name, b in packed.items()}
    if not torch.equal(layers["triton"](), layers["cuda"]()):
        raise SystemExit(f"triton and cuda differ at M {m}, K {k}, N {n}")
    rows = (quantize_codes(torch.randn(max(m, 32), k, device="cuda"), grid) ^ 128).view(torch.int8)
    half_bias = bias.bfloat16()
    return {
        VENDOR: lambda: torch._int_mm(rows, codes.t()),
        FLOAT: lambda: torch.nn.functional.linear(x, float_weight, half_bias),
        OURS: layers["triton"],
        OURS_GRAPH: graph(layers["triton"]),
        "cuda": layers["cuda"],
    }


def graph(call: Callable[[], object]) -> Callable[[], object]:
    import torch

    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        call()
    return captured.replay


def per_call(call: Callable[[], object], repeats: int) -> float:
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def rates(found: dict[str, Any], against: str) -> list[float]:
    """How many times as fast as a candidate ours was, turn by turn."""
    return [theirs / ours for ours, theirs in zip(found["seconds"][OURS], found["seconds"][against], strict=True)]


def goal(against: str, limit: float, cells: list[dict[str, Any]]) -> Result:
    """Every large size must reach ``limit``; given is the worst."""
    large = [found for found in cells if found["m"] >= LARGE]
    worst = min(large, key=lambda found: statistics.median(rates(found, against)))
    ratios = rates(worst, against)
    middle, (low, high) = statistics.median(ratios), quartiles(ratios)
    what = f"Triton int8 linear layer, M >= {LARGE}, worst of OPT-1.3B's (M {worst['m']}, {worst['k']}x{worst['n']})"
    spread = f"{low:.2f} x … {high:.2f} x, {TURNS} turns"
    return Result(what, f"{middle:.2f} x as fast", spread, against, f"at least {limit:.2f} x", middle >= limit)


def table(cells: list[dict[str, Any]]) -> str:
    names = list(cells[0]["seconds"])
    rows = []
    for found in cells:
        work = 2e-12 * found["m"] * found["k"] * found["n"]
        speeds = [f"{work / statistics.median(found['seconds'][name]):.3g}" for name in names]
        ratios = [f"{statistics.median(rates(found, name)):.2f}" for name in GOALS]
        rows.append([f"{found['k']}x{found['n']}", str(found["m"]), *speeds, *ratios])
    return markdown(["layer", "M", *names, *(f"triton / {name}" for name in GOALS)], rows)


def smallest(cells: list[dict[str, Any]]) -> str:
    """The smallest M from which on ours is the faster one, for each layer."""
    lines = ["\n"]
    for k, n in SHAPES:
        speeds = {c["m"]: statistics.median(rates(c, FLOAT)) for c in cells if (c["k"], c["n"]) == (k, n)}
        gains = [m for m in speeds if all(speed > 1 for larger, speed in speeds.items() if larger >= m)]
        lines.append(f"- {k}x{n}: faster than bf16 from M = {min(gains)} on.\n" if gains else f"- {k}x{n}: never.\n")
    return "".join(lines)


if __name__ == "__main__":
    report = measure()
    print(*report.results, report.text, sep="\n")
