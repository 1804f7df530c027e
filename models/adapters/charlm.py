"""The character language models: blocks of a sequence mixer (attention, convolution, recurrence) and a feed-forward.

The sites are the mixer's own and then, as in every decoder, those of the feed-forward. In floating point stay the
readout, the projection of relative positions, and all that a recurrence does between two characters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qexp.models.adapters._common import Places, base_of
from qexp.models.charlm.configuration import CharLMConfig
from qexp.models.sites import AdaptedModel

MODEL_TYPES = ("charlm",)


def adapt(model: Any) -> AdaptedModel:
    """Place qexp's parts in a character language model and declare its sites."""
    base, prefix = base_of(model)
    places, config = Places(model), base.config
    places.weight("embeddings.token", f"{prefix}embedding")
    places.norm("embeddings.norm", f"{prefix}embedding_norm", "LayerNorm of the embeddings: input of the first block")
    stream = "embeddings.norm"
    for index in range(config.num_hidden_layers):
        stream = _block(places, config, index, f"{prefix}layers.{index}", stream)
    places.norm("final_norm", f"{prefix}final_norm", "last LayerNorm: input of the head")
    block_output, mixer = stream.rsplit(".", 1)[-1], config.mixer
    kurtosis = (f"{mixer}_norm", f"{mixer}_output", "ffn_norm", "ffn_output", block_output, "final_norm")
    return AdaptedModel(
        module=model,
        family="charlm",
        sites=places.sites(),
        attention=tuple(places.attention),
        linears=tuple(places.linears),
        infinity_norm_roles=(block_output,),
        kurtosis_roles=tuple(dict.fromkeys(kurtosis)),
    )


def _block(places: Places, config: CharLMConfig, index: int, at: str, stream: str) -> str:
    """The sites of one block that reads the site ``stream``; the site of its output."""
    name = f"layers.{index}"
    mixer = _residual(places, config, f"{name}.{config.mixer}", f"{at}.mixer", stream, _MIXERS[config.mixer])
    return _residual(places, config, f"{name}.ffn", f"{at}.feed_forward", mixer, _feed_forward)


Branch = Callable[[Places, CharLMConfig, str, str, str, bool], None]
"""(places, config, name of the residual layer, module of the branch, site that it reads, whether others read it)."""


def _residual(places: Places, config: CharLMConfig, name: str, at: str, stream: str, branch: Branch) -> str:
    pre = config.norm == "pre"
    if pre:
        places.norm(f"{name}_norm", f"{at}.norm", "LayerNorm of the stream: input of the branch")
    branch(places, config, name, f"{at}.branch", f"{name}_norm" if pre else stream, not pre)
    places.add(f"{name}_residual", "output", f"{at}.add", "residual stream after the branch")
    if config.norm != "post":
        return f"{name}_residual"
    places.norm(f"{name}_norm", f"{at}.norm", "LayerNorm of that sum")
    return f"{name}_norm"


def _attention(places: Places, config: CharLMConfig, name: str, at: str, reads: str, shared: bool) -> None:
    layer, heads, width = int(name.split(".")[1]), config.num_attention_heads, config.hidden_size
    block = f"layers.{layer}"
    carries = "query, key and value projections side by side"
    places.linear(f"{block}.qkv", f"{at}.qkv", carries, reads=reads, shared=shared)
    places.attend(
        layer,
        at,
        heads=heads,
        head_dim=width // heads,
        width=width,
        context_after_gate=True,
        operands=("qkv", "qkv", "qkv"),
    )
    carries = "output projection of the attention"
    places.linear(f"{name}_output", f"{at}.output", carries, reads=f"{block}.context", shared=False)


def _conv(places: Places, config: CharLMConfig, name: str, at: str, reads: str, shared: bool) -> None:
    places.weight(name, f"{at}.conv")
    places.add(f"{name}_output", "output", at, "convolution after its activation (fused)")


def _rnn(places: Places, config: CharLMConfig, name: str, at: str, reads: str, shared: bool) -> None:
    places.weight(f"{name}_gates", f"{at}.cell.gates")
    places.add(f"{name}_output", "output", at, "states of the recurrence")


def _feed_forward(places: Places, config: CharLMConfig, name: str, at: str, reads: str, shared: bool) -> None:
    places.linear(f"{name}_hidden", f"{at}.up", None, reads=reads, shared=shared)
    places.add(f"{name}_hidden", "output", f"{at}.activation", "first FFN layer after its activation (fused)")
    carries = "second FFN layer, before the residual sum"
    places.linear(f"{name}_output", f"{at}.down", carries, reads=f"{name}_hidden", shared=False)


_MIXERS: dict[str, Branch] = {"attention": _attention, "conv": _conv, "rnn": _rnn}
