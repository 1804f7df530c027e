"""A training step with every site of the paper fake-quantized (W8A8) against the same step in floats: time and memory.

Run with: python benchmarks/fake_quantized_step.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from child import in_child
from measure import Report, by_turns, ratio, seconds

SIZES = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_hidden_layers": 4}
VOCABULARY, BATCH, LENGTH = 8192, 8, 128
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""glibc then returns freed blocks at once: the peak is that of live tensors, not of its fragmented heap."""
PATHS = {"native kernels": {}, "torch's own ops": {"QEXP_NATIVE": "0"}}


def make_step(quantized: bool) -> Callable[[], None]:
    """One optimizer step of a BERT for masked language modelling; same weights and batch whichever is asked for."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from qexp.models.adapt import adapt

    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, max_position_embeddings=LENGTH, **SIZES))
    model = adapt(network)
    ids = torch.randint(VOCABULARY, (BATCH, LENGTH))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    if quantized:
        quantize_live(model, batch)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        network(**batch).loss.backward()
        optimizer.step()

    return step


def quantize_live(model, batch) -> None:
    """Quantizers at all sites of the network itself, ranges from one batch: what quantization-aware training runs."""
    import torch

    from qexp.conf.schema import QuantConfig
    from qexp.models.quantization import place_quantizers

    quantizers = place_quantizers(model.module, model.sites, QuantConfig(name="w8a8"), "w8a8").values()
    for quantizer in quantizers:
        quantizer.mode = "estimate"
    with torch.no_grad():
        model.module.eval()(**batch)
    for quantizer in quantizers:
        quantizer.freeze()


def peak_megabytes(quantized: bool, steps: int = 2) -> float:
    """Peak memory of some steps above what the imports took."""
    import psutil
    import transformers.models.bert.modeling_bert  # noqa: F401  (its memory is not the step's)

    import qexp.models.quantization  # noqa: F401
    from qexp.runner.stopwatch import Stopwatch

    before = psutil.Process().memory_info().rss
    with Stopwatch() as watch:
        step = make_step(quantized)
        for _ in range(steps):
            step()
    return (watch.peak_memory - before) / 2**20


def step_seconds(turns: int) -> dict[str, list[float]]:
    steps = {"quantized": make_step(True), "float": make_step(False)}
    return by_turns({name: partial(seconds, step) for name, step in steps.items()}, turns, warmup=2)


def measure(turns: int = 11, memory_turns: int = 3) -> Report:
    what, base, results = "fake-quantized training step (W8A8, every site)", "float step, same model", []
    for words, path in PATHS.items():
        times = in_child("fake_quantized_step", "step_seconds", turns, **path)
        results.append(ratio(f"{what}, {words}: time", times["quantized"], times["float"], base, 1.25))
    for words, allocator in {"peak memory of tensors": RETURNING, "peak memory with glibc's heap": {}}.items():
        measure_peak = partial(in_child, "fake_quantized_step", "peak_megabytes", **allocator)
        peaks = {name: partial(measure_peak, name == "quantized") for name in ("quantized", "float")}
        memory = by_turns(peaks, memory_turns, warmup=0)
        results.append(ratio(f"the same, native kernels: {words}", memory["quantized"], memory["float"], base, 1.3))
    return Report(results)


if __name__ == "__main__":
    print(*measure().results, sep="\n")
