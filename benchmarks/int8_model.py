"""A whole network in integers beside floats and the peers: time, and the memory of its weights.

Run with: python benchmarks/int8_model.py
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from child import in_child, modes
from executed import products, totals
from measure import Report, Result, Timing, summary, timed
from peers import convert, inspect_all, silence
from tables import markdown
from workloads import NETWORKS, SEQUENCES, back_ends, batch, threads

SETTINGS = ("w8a8", "products")
"""Quantizers at every site of the paper, and only at those that integer products read (as the peers have it)."""
TURNS, BUDGET, LONGEST = 7, 6.0, 4.0
GOALS = {"fp32": 1.4, "torchao": 20.0, "quanto": 20.0, "bitsandbytes": 2.0}
OURS = "qexp {}, {}"
LARGEST_SHARE = 0.27


def figures(peers: list[str]) -> dict[str, Any]:
    """Network -> everything measured of it with this process's instruction set."""
    silence()
    return {
        "back_ends": back_ends(),
        "networks": {name: network_figures(make(), peers) for name, make in NETWORKS.items()},
    }


def network_figures(network: Any, peers: list[str]) -> dict[str, Any]:
    import torch

    inputs = batch()
    with torch.no_grad():
        integers = make_integers(network, inputs)
        theirs, failed = converted_by(peers, network, partial(run, inputs=inputs))
        forwards = {"fp32": network} | {name: integer.module for name, integer in integers.items()} | theirs
        found = {"candidates": measure_forwards(forwards, inputs), "failed": failed}
        torch.set_num_threads(1)
        expected = run(network, inputs)
        for name, forward in forwards.items():
            found["candidates"][name] |= {
                "like_float": likeness(expected, run(forward, inputs)),
                "products": products(partial(run, forward, first(inputs))),
            }
        main = next(iter(integers.values()))
        return {**found, "profile": totals(partial(run, main.module, inputs)), "weights": weights(main)}


def converted_by(peers: list[str], network: Any, forward: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The networks of the peers that can convert and run this one, and why the others cannot."""
    networks, failed = {}, {}
    for name in peers:
        try:
            networks[name] = convert(name, copy.deepcopy(network), forward)
            forward(networks[name])
        except Exception as error:  # whatever a library raises, the others are measured
            networks.pop(name, None)
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return networks, failed


def make_integers(network: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The network in integers: on every back end with quantizers everywhere, on the first with the least too."""
    from qexp.models.adapt import adapt
    from qexp.models.integer import integer_model
    from qexp.models.quantization import quantize_model
    from qexp.runner.compose import compose

    model, names, found = adapt(copy.deepcopy(network)), back_ends(), {}
    for setting in SETTINGS:
        quantized = quantize_model(model, compose([f"quant={setting}"]).quant, "w8a8", [inputs])
        for name in names if setting == SETTINGS[0] else names[:1]:
            found[OURS.format(name, setting)] = integer_model(quantized, model, backend=name)
    return found


def run(network: Any, inputs: dict[str, Any]) -> Any:
    hidden = network(**inputs).last_hidden_state
    return hidden.dequantize() if hasattr(hidden, "dequantize") else hidden


def first(inputs: dict[str, Any]) -> dict[str, Any]:
    """The first sequence of a batch."""
    return {name: value[:1] for name, value in inputs.items()}


def measure_forwards(forwards: dict[str, Any], inputs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Candidate -> number of threads -> summary.

    One that would take more than LONGEST seconds runs a single sequence, and its time is multiplied by their number.
    """
    import torch

    found: dict[str, dict[str, Any]] = {name: {"threads": {}} for name in forwards}
    for count in threads():
        torch.set_num_threads(count)
        parts = {name: part(partial(run, network), inputs) for name, network in forwards.items()}
        timings = timed({name: action for name, (action, _) in parts.items()}, TURNS, BUDGET)
        scaled = {name: times(timing, parts[name][1]) for name, timing in timings.items()}
        for name, timing in scaled.items():
            found[name]["threads"][str(count)] = summary(timing, scaled["fp32"]) | {
                "scaled_from_one": parts[name][1] > 1
            }
    return found


def part(forward: Callable[..., Any], inputs: dict[str, Any]) -> tuple[Callable[[], Any], int]:
    """What to time, and by how much to multiply."""
    from measure import seconds

    one = partial(forward, inputs=first(inputs))
    one()
    return (one, SEQUENCES) if SEQUENCES * seconds(one) > LONGEST else (partial(forward, inputs=inputs), 1)


def times(timing: Timing, factor: int) -> Timing:
    return Timing([factor * t for t in timing.wall], [factor * t for t in timing.cpu])


def likeness(expected: Any, found: Any) -> float:
    """Mean cosine of the last hidden states, token by token."""
    import torch

    return float(torch.cosine_similarity(expected, found, dim=-1).mean())


def weights(integer: Any) -> dict[str, float]:
    """Bytes of the converted weights: in floats, in memory as integers, in a saved model without what stays float."""
    from qexp.models.integer_saving import save_integer

    with tempfile.TemporaryDirectory() as folder:
        save_integer(integer, Path(folder) / "model")
        saved = sum(file.stat().st_size for file in (Path(folder) / "model").glob("*.safetensors"))
    memory = integer.memory
    return {
        "float32": memory.converted_float32_bytes,
        "in_memory": memory.integer_bytes,
        "on_disk": saved - memory.still_float_bytes,
    }


def measure() -> Report:
    results, text, kept = [], "", {}
    for mode, environment in modes().items():
        peers = [name for name, facts in inspect_all(environment).items() if "failed" not in facts]
        found = in_child("int8_model", "figures", peers, limit=1800, **environment)
        kept[mode] = found
        results += goals(mode, found)
        text += f"\n### {mode[0].upper()}{mode[1:]}\n"
        text += "".join(network_text(name, facts) for name, facts in found["networks"].items())
    return Report(results, f"\n## Whole networks\n{INTRODUCTION}{text}", kept)


INTRODUCTION = """
One forward pass of 8 x 128 tokens without padding: MiniLM with its pretrained weights, a BERT of BERT-base's size with
random ones; fp32 is Hugging Face's own network with its SDPA attention. qexp runs every linear layer and both attention
products in integers: `w8a8` with a quantizer at every site of the paper, `products` only where a product reads. The
peers' attention stays in floats. *Like float* is the mean cosine between the last hidden states and fp32's; with random
weights it says little, and `w8a8` also rounds the residual sums, whose outliers in a pretrained network 8 bits do not
hold (that is what the papers' methods repair). ~: timed on one sequence and multiplied by 8. *Products* are the matrix
products that torch's profiler saw in one pass, with the types that the op takes; qexp's fused ones take floats and
multiply their codes inside.
"""


def network_text(name: str, facts: dict[str, Any]) -> str:
    counts = list(facts["candidates"]["fp32"]["threads"])
    header = ["", *(f"ms, {count} thread(s)" for count in counts), "CPU ms", *(f"x fp32, {count}" for count in counts)]
    rows = [candidate_row(candidate, figures, counts) for candidate, figures in facts["candidates"].items()]
    table = markdown([*header, "like float", "products"], rows)
    table += "".join(f"\n{peer} did not run: {why}\n" for peer, why in facts["failed"].items())
    profile = [[f"`{op}`", str(calls), f"{share:.1%}"] for op, calls, share in facts["profile"]]
    where = f"\nWhere one thread's time goes in the first of them, {name} in integers:\n"
    return (
        f"\n*{name}*\n{table}{where}"
        + markdown(["op", "calls", "of the time"], profile)
        + weights_text(facts["weights"])
    )


def candidate_row(name: str, facts: dict[str, Any], counts: list[str]) -> list[str]:
    runs = [facts["threads"][count] for count in counts]
    wall = ["{}{:.1f} ({:.1f} … {:.1f})".format("~" * r["scaled_from_one"], *middle_first(r["wall_ms"])) for r in runs]
    cpu = f"{runs[0]['cpu_ms'][1]:.1f}"
    speed = ["{:.2f} ({:.2f} … {:.2f})".format(*middle_first(r["speed"])) for r in runs]
    dispatched = ", ".join(f"{calls} x `{op}`" for op, calls in facts["products"].items())
    return [name, *wall, cpu, *speed, f"{facts['like_float']:.4f}", dispatched]


def middle_first(edges: list[float]) -> tuple[float, float, float]:
    return edges[1], edges[0], edges[2]


def weights_text(facts: dict[str, float]) -> str:
    megabytes = {name: size / 1e6 for name, size in facts.items()}
    sizes = "{float32:.2f} MB in float32, {in_memory:.2f} MB in memory, {on_disk:.2f} MB on disk".format(**megabytes)
    return f"\nIts converted weights: {sizes}.\n"


def goals(mode: str, found: dict[str, Any]) -> list[Result]:
    ours, results = OURS.format(found["back_ends"][0], SETTINGS[0]), []
    for network, facts in found["networks"].items():
        candidates = facts["candidates"]
        for base, limit in GOALS.items():
            if base in candidates:
                what = f"{mode}: {network}, integers ({found['back_ends'][0]})"
                results.append(times_faster(what, candidates[ours], candidates[base], base, limit))
        for place in ("in_memory", "on_disk"):
            share = facts["weights"][place] / facts["weights"]["float32"]
            what = f"{mode}: {network}, converted weights {place.replace('_', ' ')}"
            goal, met = f"at most {LARGEST_SHARE:.2f} x", share <= LARGEST_SHARE
            results.append(Result(what, f"{share:.3f} x", "a size", "float32", goal, met))
    return results


def times_faster(what: str, ours: dict[str, Any], theirs: dict[str, Any], base: str, limit: float) -> Result:
    """The median times' ratio for each number of threads; all must reach ``limit``."""
    runs = [(ours["threads"][count], theirs["threads"][count]) for count in ours["threads"]]
    ratios = [their["wall_ms"][1] / our["wall_ms"][1] for our, their in runs]
    figure = " / ".join(f"{ratio:.2f}" for ratio in ratios) + " x as fast"
    turns = statistics.median([our["turns"] for our, _ in runs])
    spread = f"1 / 2 threads, {turns:.0f} turns"
    return Result(what, figure, spread, base, f"at least {limit:g} x", min(ratios) >= limit)


if __name__ == "__main__":
    report = measure()
    print(*report.results, report.text, sep="\n")
