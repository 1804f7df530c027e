"""Quadapter's block-wise phase in a network of twice the blocks: its time is twice, its peak memory the same.

Run with: python benchmarks/blockwise.py
"""

from __future__ import annotations

from functools import partial

from child import in_child
from fake_quantized_step import RETURNING
from measure import Report, by_turns, ratio

SIZES = {"n_embd": 256, "n_head": 4, "vocab_size": 2048, "n_positions": 128}
BATCH, LENGTH, BATCHES, STEPS = 4, 128, 8, 8
FEW, MANY = 4, 8
"""Blocks of the two networks."""


def phase(blocks: int) -> tuple[float, float]:
    """Seconds of the first phase, and its peak memory [MB] above what the network and its quantizers take.

    Without the calibration of ranges before and after it, which quantizes a copy of the whole network.
    """
    import psutil
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from qexp.conf.schema import QuantConfig
    from qexp.methods.base import Context
    from qexp.methods.quadapter.blockwise import fit_blocks
    from qexp.methods.quadapter.method import Quadapter
    from qexp.methods.quadapter.settings import Settings
    from qexp.models.adapt import adapt
    from qexp.runner.stopwatch import Stopwatch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = adapt(GPT2LMHeadModel(GPT2Config(n_layer=blocks, use_cache=False, **SIZES)).eval())
    ids = torch.randint(SIZES["vocab_size"], (BATCHES, BATCH, LENGTH))
    batches = [{"input_ids": one, "attention_mask": torch.ones_like(one)} for one in ids]
    method = Quadapter(Settings(bits="w8a8", steps=STEPS, blockwise=False))
    method.prepare(model, Context(LENGTH, pretrained=True, quant=QuantConfig("w8a8")))
    method.calibrate(model, batches)
    method._follow(model, True)
    before = psutil.Process().memory_info().rss
    with Stopwatch() as watch:
        fit_blocks(model, batches, method._by_layer(model), method.settings)
    return watch.wall, (watch.peak_memory - before) / 2**20


def measure(turns: int = 3) -> Report:
    run = partial(in_child, "blockwise", "phase", **RETURNING)
    found: dict[str, list[tuple[float, float]]] = by_turns({"many": lambda: run(MANY), "few": lambda: run(FEW)}, turns)
    times = {name: [seconds for seconds, _ in values] for name, values in found.items()}
    peaks = {name: [memory for _, memory in values] for name, values in found.items()}
    few = [MANY / FEW * seconds for seconds in times["few"]]
    what, base = f"Quadapter's block-wise phase, {MANY} blocks", f"{FEW} blocks"
    return Report(
        [
            ratio(f"{what}: time per block", times["many"], few, base, 1.1),
            ratio(f"{what}: peak memory beside the network", peaks["many"], peaks["few"], base, 1.1),
        ]
    )


if __name__ == "__main__":
    print(*measure().results, sep="\n")
