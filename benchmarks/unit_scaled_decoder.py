"""One small decoder of torch's parts, of qexp's unit-scaled parts, and of those of the authors' library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from unit_scaled_step import BATCH, LENGTH, SIZES

TAU = 0.5
"""Of every residual branch; how it weighs costs the same whatever it is."""


@dataclass(frozen=True)
class Parts:
    """What a decoder is made of: classes of modules, and functions of tensors."""

    Linear: Any
    Readout: Any
    Embedding: Any
    LayerNorm: Any
    gelu: Callable[..., Any]
    attention: Callable[..., Any]
    cross_entropy: Callable[..., Any]
    split: Callable[..., Any]
    """From x to what the branch takes and what skips it."""
    add: Callable[..., Any]


def of_torch() -> Parts:
    from torch import nn
    from torch.nn import functional as F

    attention = partial(F.scaled_dot_product_attention, is_causal=True)
    modules = nn.Linear, partial(nn.Linear, bias=False), nn.Embedding, nn.LayerNorm
    return Parts(*modules, F.gelu, attention, F.cross_entropy, lambda x: (x, x), lambda x, skip: x + skip)


def of_qexp() -> Parts:
    from qexp.kernels.unit_scaling import functional as U
    from qexp.kernels.unit_scaling import modules as M

    modules = M.Linear, partial(M.LinearReadout, bias=False), M.Embedding, M.LayerNorm
    functions = U.gelu, partial(U.attention, is_causal=True), U.cross_entropy
    return Parts(*modules, *functions, partial(U.residual_split, tau=TAU), partial(U.residual_add, tau=TAU))


def of_the_authors() -> Parts:
    """As version 0.3.5 has them: the factors are u-muP's."""
    import unit_scaling as M
    from unit_scaling import functional as U

    linear, readout = partial(M.Linear, bias=True), partial(M.LinearReadout, bias=False)
    modules = linear, readout, M.Embedding, partial(M.LayerNorm, elementwise_affine=True)
    functions = U.gelu, partial(U.scaled_dot_product_attention, is_causal=True), U.cross_entropy
    return Parts(*modules, *functions, partial(U.residual_split, tau=TAU), partial(U.residual_add, tau=TAU))


PARTS = {"torch": of_torch, "qexp": of_qexp, "unit-scaling": of_the_authors}


def make_decoder(parts: Parts) -> Any:
    """A pre-norm decoder [batch, tokens] -> loss of predicting each token from those before it."""
    from torch import nn

    width, heads = SIZES["n_embd"], SIZES["n_head"]

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = parts.Linear(width, 3 * width), parts.Linear(width, width)

        def forward(self, x: Any) -> Any:
            q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
            return self.out(parts.attention(q, k, v).transpose(1, 2).flatten(2))

    class FeedForward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = parts.Linear(width, 4 * width), parts.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            return self.down(parts.gelu(self.up(x)))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = parts.Embedding(SIZES["vocab_size"], width)
            self.branches = nn.ModuleList(kind() for _ in range(SIZES["n_layer"]) for kind in (Attention, FeedForward))
            self.norms = nn.ModuleList(parts.LayerNorm(width) for _ in (*self.branches, "last"))
            self.readout = parts.Readout(width, SIZES["vocab_size"])

        def forward(self, tokens: Any) -> Any:
            x = self.embedding(tokens)
            for norm, branch in zip(self.norms, self.branches, strict=False):
                inside, skip = parts.split(x)
                x = parts.add(branch(norm(inside)), skip)
            logits = self.readout(self.norms[-1](x))
            return parts.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    return Decoder()


def make_step(whose: str, compiled: bool) -> Callable[[], None]:
    """One optimizer step of the decoder of ``whose`` parts."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    decoder = make_decoder(PARTS[whose]())
    tokens = torch.randint(SIZES["vocab_size"], (BATCH, LENGTH))
    network = torch.compile(decoder) if compiled else decoder
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        network(tokens).backward()
        optimizer.step()

    return step


def step_seconds(compiled: bool, turns: int) -> dict[str, list[float]]:
    from measure import by_turns, seconds

    return by_turns({whose: partial(seconds, make_step(whose, compiled)) for whose in PARTS}, turns, warmup=2)
