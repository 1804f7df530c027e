"""A training step of each method that quantizes in training against the same step in floats.

Run with: python benchmarks/quantized_training.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from child import in_child
from fake_quantized_step import BATCH, LENGTH, PATHS, SIZES, VOCABULARY
from measure import Report, by_turns, ratio, seconds

METHODS = {"qat": {}, "lsq": {}, "kurtosis_qat": {"select": "all", "weight": 1e-9}}
"""Each with its settings; the penalty is computed in full, but so light that it changes nothing."""


def make_step(method: str | None) -> Callable[[], None]:
    """One optimizer step of a BERT for masked language modelling, all of the method's work included."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from qexp.conf.schema import QuantConfig
    from qexp.methods.base import Context
    from qexp.methods.registry import create
    from qexp.models.adapt import adapt

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = adapt(BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, max_position_embeddings=LENGTH, **SIZES)))
    ids = torch.randint(VOCABULARY, (BATCH, LENGTH))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    acting = create(method or "vanilla", {"bits": "w8a8", **METHODS[method]} if method else {})
    acting.prepare(model, Context(LENGTH, pretrained=True, quant=QuantConfig("w8a8"), max_steps=1000))
    acting.begin(model)
    acting.calibrate(model, [{key: value for key, value in batch.items() if key != "labels"}])
    model.module.train()
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        (model.module(**batch).loss + acting.extra_loss(model)).backward()
        optimizer.step()
        acting.after_step(model, 1)

    return step


def step_seconds(turns: int) -> dict[str, list[float]]:
    steps = {"float": make_step(None), **{name: make_step(name) for name in METHODS}}
    return by_turns({name: partial(seconds, step) for name, step in steps.items()}, turns, warmup=2)


def measure(turns: int = 11) -> Report:
    results = []
    for words, path in PATHS.items():
        times = in_child("quantized_training", "step_seconds", turns, **path)
        for method in ("qat", "lsq"):
            what = f"{method} training step (W8A8, every site), {words}: time"
            results.append(ratio(what, times[method], times["float"], "float step, same model", 1.3))
        what = f"the same with a kurtosis penalty on every matrix, {words}: time"
        results.append(ratio(what, times["kurtosis_qat"], times["qat"], "qat step", 1.05))
    return Report(results)


if __name__ == "__main__":
    print(*measure().results, sep="\n")
