"""A training step of a unit-scaled GPT-2 against the same step of the ordinary one, eager and compiled.

Beside it the authors' library, on one decoder of torch's parts, qexp's and theirs: it converts no GPT-2, whose linear
layers are ``Conv1D``.

Run with: python benchmarks/unit_scaled_step.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from child import in_child
from measure import Report, by_turns, ratio, seconds
from tables import markdown

SIZES = {"n_layer": 4, "n_embd": 256, "n_head": 4, "vocab_size": 8192, "n_positions": 128}
DROPOUTS = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
BATCH, LENGTH = 8, 128
PEERS = ("qexp", "unit-scaling")
TEXT = """
## Unit scaling beside the authors' library

A training step of one decoder (4 layers x 256, 8 x 128 tokens, LayerNorm, GELU, AdamW) made of qexp's unit-scaled parts
and of those of the authors' library `unit-scaling`, each against the same decoder of torch's parts, all by turns.

"""


def make_step(unit_scaled: bool, compiled: bool) -> Callable[[], None]:
    """One optimizer step of a language model with untied embeddings, which both have."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from qexp.methods.base import Context
    from qexp.methods.registry import create
    from qexp.models.adapt import adapt

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = GPT2Config(tie_word_embeddings=False, use_cache=False, **SIZES, **DROPOUTS)
    model = adapt(GPT2LMHeadModel(config))
    create("unit_scaling" if unit_scaled else "vanilla", {}).prepare(model, Context(LENGTH, pretrained=False))
    ids = torch.randint(SIZES["vocab_size"], (BATCH, LENGTH))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    network = torch.compile(model.module.train()) if compiled else model.module.train()
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        network(**batch).loss.backward()
        optimizer.step()

    return step


def step_seconds(compiled: bool, turns: int) -> dict[str, list[float]]:
    steps = {name: make_step(name == "unit_scaled", compiled) for name in ("unit_scaled", "ordinary")}
    return by_turns({name: partial(seconds, step) for name, step in steps.items()}, turns, warmup=2)


def measure(turns: int = 11) -> Report:
    results, rows = [], []
    for words, compiled in {"eager": False, "compiled": True}.items():
        times = in_child("unit_scaled_step", "step_seconds", compiled, turns)
        what = f"unit-scaled training step, {words}: time"
        results.append(ratio(what, times["unit_scaled"], times["ordinary"], "ordinary step, same sizes", 1.05))
        rows.append([words, *_beside_the_authors(compiled, turns)])
    return Report(results, TEXT + markdown(("step", *PEERS), rows))


def _beside_the_authors(compiled: bool, turns: int) -> list[str]:
    """The ratio and its quartiles of each of :data:`PEERS`; or why there is none."""
    try:
        times = in_child("unit_scaled_decoder", "step_seconds", compiled, turns)
    except RuntimeError as error:
        return [f"failed: {error}"] * len(PEERS)
    found = [ratio("", times[whose], times["torch"], "", 1.05) for whose in PEERS]
    return [f"{one.figure} ({one.spread})" for one in found]


if __name__ == "__main__":
    print(*measure().results, sep="\n")
