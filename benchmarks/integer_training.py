"""The arithmetic of outlier_int8 beside floats and LLM.int8(): the 36 linear layers of MiniLM on their own inputs.

Run with: python benchmarks/integer_training.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from child import in_child
from measure import Report, Result, Timing, ratio, summary, timed
from tables import markdown
from workloads import batch, minilm, threads

TURNS, BUDGET = 9, 12.0
GAMMA, LLM_THRESHOLD = 5.0, 6.0
PARTS = ("map x and w", "map g", "y", "dx", "dw and db")


def layers() -> list[tuple[Any, Any]]:
    """(layer, its input [1024, K] on 8 x 128 tokens) of every linear layer of the encoder."""
    import torch
    from torch import nn

    network, found = minilm(), []

    def take(layer: Any, args: tuple[Any, ...]) -> None:
        found.append((layer, args[0].reshape(-1, args[0].shape[-1]).clone()))

    linears = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(take) for layer in linears]
    with torch.no_grad():
        network(**batch())
    for hook in hooks:
        hook.remove()
    return found


def arithmetics() -> dict[str, Any]:
    from qexp.kernels.fixed_point.linear import Arithmetic
    from qexp.kernels.fixed_point.operand import OutlierFormat
    from qexp.kernels.fixed_point.outliers import Threshold

    tiled = partial(Arithmetic, outliers=OutlierFormat(12))
    return {
        "int8": Arithmetic(),
        "tiled, by column": tiled(threshold=Threshold(GAMMA, by_column=True)),
        "tiled, by element": tiled(threshold=Threshold(GAMMA)),
    }


def converted(found: list[tuple[Any, Any]], numbers: Any, frozen: bool) -> Any:
    """The layers in fixed point, in one module."""
    import copy

    from torch import nn

    from qexp.models import fixed_point

    network = nn.ModuleList([copy.deepcopy(layer) for layer, _ in found])
    fixed_point.install(network, numbers, lambda _: True)
    if frozen:
        fixed_point.freeze(network, "auto")
    return network


def forwards(found: list[tuple[Any, Any]]) -> dict[str, Callable[[], object]]:
    import copy

    from torch import nn

    from qexp.methods.llm_int8.layers import convert

    llm = nn.ModuleList([copy.deepcopy(layer) for layer, _ in found])
    convert(llm, LLM_THRESHOLD, ())
    networks = {"float": [layer for layer, _ in found], "LLM.int8()": llm}
    networks |= {name: converted(found, numbers, frozen=True) for name, numbers in arithmetics().items()}
    return {name: partial(run_all, network, found) for name, network in networks.items()}


def run_all(network: Any, found: list[tuple[Any, Any]]) -> None:
    import torch

    with torch.no_grad():
        for layer, (_, x) in zip(network, found, strict=True):
            layer(x)


def steps(found: list[tuple[Any, Any]]) -> dict[str, Callable[[], object]]:
    """Forward and backward of every layer, all three gradients."""
    import copy

    from torch import nn

    networks = {"float": nn.ModuleList([copy.deepcopy(layer) for layer, _ in found])}
    networks |= {name: converted(found, numbers, frozen=False) for name, numbers in arithmetics().items()}
    return {name: partial(step_all, network.train(), found) for name, network in networks.items()}


def step_all(network: Any, found: list[tuple[Any, Any]]) -> None:
    for layer, (_, x) in zip(network, found, strict=True):
        leaf = x.detach().requires_grad_()
        y = layer(leaf)
        y.backward(y.detach())
        layer.weight.grad = layer.bias.grad = None


def parts(found: list[tuple[Any, Any]], numbers: Any) -> dict[str, Callable[[], object]]:
    """What a step of integers consists of, each for all layers."""
    import torch

    from qexp.kernels.fixed_point.linear import bias_gradient, input_gradient, linear, weight_gradient

    with torch.no_grad():
        floats = [(x, layer.weight, layer.bias, layer(x)) for layer, x in found]
    mapped = [(numbers.activations(x), numbers.weights(w.detach()), b, numbers.gradients(g)) for x, w, b, g in floats]
    actions = (
        lambda: [(numbers.activations(x), numbers.weights(w.detach())) for x, w, _, _ in floats],
        lambda: [numbers.gradients(g) for *_, g in floats],
        lambda: [linear(x, w, b.detach()) for x, w, b, _ in mapped],
        lambda: [input_gradient(g, w) for _, w, _, g in mapped],
        lambda: [(weight_gradient(g, x), bias_gradient(g)) for x, _, _, g in mapped],
    )
    return dict(zip(PARTS, actions, strict=True))


def outliers(found: list[tuple[Any, Any]]) -> dict[str, float]:
    """Share of elements beyond gamma, and of columns with one: means over layers."""
    shares = [float((x.abs() > GAMMA).float().mean()) for _, x in found]
    columns = [float((x.abs() > GAMMA).any(0).float().mean()) for _, x in found]
    return {"elements": sum(shares) / len(shares), "columns": sum(columns) / len(columns)}


def figures(count: int) -> dict[str, Any]:
    """Seconds of forward passes, steps and parts on ``count`` threads, turn by turn."""
    import torch
    from peers import silence

    from qexp.kernels.int8 import select

    silence()
    torch.set_num_threads(count)
    select("auto")
    found = layers()
    return {
        "outliers": outliers(found),
        "forward": _walls(timed(forwards(found), TURNS, BUDGET)),
        "step": _walls(timed(steps(found), TURNS, BUDGET)),
        "parts": _walls(timed(parts(found, arithmetics()["tiled, by column"]), TURNS, BUDGET)),
    }


def _walls(timings: Mapping[str, Timing]) -> dict[str, list[float]]:
    return {name: timing.wall for name, timing in timings.items()}


def measure() -> Report:
    found = {count: in_child("integer_training", "figures", count) for count in threads()}
    results, rows = [], []
    for count, figure in found.items():
        forward, step = figure["forward"], figure["step"]
        on = f"36 linear layers of MiniLM, {count} thread" + "s" * (count > 1)
        tiled = forward["tiled, by column"]
        results += [
            _ratio(f"tiled forward, {on}", tiled, forward["int8"], "plain int8", 1.25),
            _ratio(f"tiled forward, {on}", tiled, forward["LLM.int8()"], "Linear8bitLt, threshold 6", 1 / 1.5),
            _ratio(f"integer training step, {on}", step["int8"], step["float"], "float step", 1.2),
            _ratio(f"tiled training step, {on}", step["tiled, by column"], step["float"], "float step", 1.2),
        ]
        rows += [
            [f"{what}: {name}", str(count), *_cells(walls)]
            for what in ("forward", "step", "parts")
            for name, walls in figure[what].items()
        ]
    share = next(iter(found.values()))["outliers"]
    text = (
        "\n## Integer fine-tuning\n\nThe linear layers of MiniLM's encoder on their own inputs (8 x 128 tokens, no "
        f"padding), {100 * share['elements']:.2f} % of whose elements lie beyond {GAMMA:g}, in "
        f"{100 * share['columns']:.1f} % of the columns. Forward passes have their weights mapped and packed "
        "beforehand; a step maps them anew, with nearest rounding forward and random rounding of gradients. The parts "
        "are those of the step tiled by column.\n" + markdown(("what", "threads", "median [ms]"), rows)
    )
    return Report(results, text, found)


def _ratio(what: str, ours: list[float], theirs: list[float], baseline: str, limit: float) -> Result:
    """Over the turns that both had: a slow candidate gets fewer."""
    turns = min(len(ours), len(theirs))
    return ratio(what, ours[:turns], theirs[:turns], baseline, limit)


def _cells(walls: list[float]) -> list[str]:
    timing = Timing(walls, walls)
    return [f"{summary(timing, timing)['wall_ms'][1]:.1f}"]


if __name__ == "__main__":
    report = measure()
    print(*report.results, sep="\n")
    print(report.text)
