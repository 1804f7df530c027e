"""A training step in FP8, simulated, against the same step in float32; FP16, BF16 and the authors' library beside it.

Run with: python benchmarks/low_precision_training.py
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from child import in_child
from fake_quantized_step import BATCH, LENGTH, PATHS, SIZES, VOCABULARY
from measure import Report, by_turns, ratio, seconds
from tables import markdown

SMALL = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 3}
"""The dimensions of ``tiny_bert``, where what a layer costs beside its products is most of a step."""
NETWORKS = {"4 layers x 256": (SIZES, BATCH, LENGTH), "3 layers x 64": (SMALL, 16, 64)}
FORMATS = ("fp8", "fp8 stochastic", "fp16", "bf16")
AUTHORS = "unit-scaling's fp8"
"""``simulate_fp8`` of the library ``unit-scaling`` on the network as transformers has it; it rounds stochastically."""
BESIDE = (*FORMATS[1:], AUTHORS)


def make_step(name: str, network: str, stack: ExitStack) -> Callable[[], None]:
    """One optimizer step of a BERT for masked language modelling, all that the precision adds to it included.

    ``name``: ``float``, one of :data:`FORMATS`, or :data:`AUTHORS`.
    """
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from qexp.conf.schema import TrainConfig
    from qexp.models.adapt import adapt
    from qexp.models.precision import make_precision

    sizes, batch, length = NETWORKS[network]
    torch.manual_seed(0)
    bert = BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, max_position_embeddings=length, **sizes))
    model = _by_the_authors(bert) if name == AUTHORS else adapt(bert).module
    ids = torch.randint(VOCABULARY, (batch, length))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-6, fused=True)
    kind, _, rounding = (name if name in FORMATS else "fp32").partition(" ")
    precision = make_precision(TrainConfig("benchmark", precision=kind, rounding=rounding or "nearest"))
    if precision is not None:
        stack.enter_context(precision.installed(model))

    def step() -> None:
        optimizer.zero_grad()
        if precision is None:
            model(**inputs).loss.backward()
            optimizer.step()
        else:
            with precision.running():
                model(**inputs).loss.backward()
            optimizer.step()
            precision.after_step(optimizer, 1.0)

    return step


def _by_the_authors(bert: Any) -> Any:
    from unit_scaling.transforms import simulate_fp8

    return simulate_fp8(bert)


def step_seconds(network: str, turns: int) -> dict[str, list[float]]:
    import torch

    from qexp.kernels import native

    torch.set_num_threads(1)
    native.unavailable()  # loads them, unless QEXP_NATIVE=0
    with ExitStack() as stack:
        steps = {name: make_step(name, network, stack) for name in ("float", *FORMATS, AUTHORS)}
        return by_turns({name: partial(seconds, step) for name, step in steps.items()}, turns, warmup=2)


def measure(turns: int = 11) -> Report:
    results, rows = [], []
    for network in NETWORKS:
        for words, path in PATHS.items():
            times = in_child("low_precision_training", "step_seconds", network, turns, **path)
            what = f"simulated FP8 training step, BERT {network}, {words}: time"
            results.append(ratio(what, times["fp8"], times["float"], "float step, same model", 1.5))
            found = [ratio("", times[name], times["float"], "", 1.5) for name in BESIDE]
            rows.append([f"BERT {network}, {words}", *(one.figure for one in found)])
    text = (
        "\n## Training in narrow formats\n\nOther formats than FP8 with nearest rounding, against the float step in "
        "the same turns. FP16 and BF16 round after every operation and keep attention's products apart. The authors' "
        "library `unit-scaling` simulates FP8 with stochastic rounding, without native kernels.\n\n"
        + markdown(("step", *BESIDE), rows)
    )
    return Report(results, text)


if __name__ == "__main__":
    report = measure()
    print(*report.results, sep="\n")
    print(report.text)
