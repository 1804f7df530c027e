"""The libraries beside qexp: how each makes a network INT8, and what it then really executes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

from child import in_child

DEPTH, COLUMNS, LAYERS = 768, 64, 12


def torchao(network: Any, _: Callable[[Any], object]) -> Any:
    """W8A8 dynamic: activations per token, weights per channel."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(network, Int8DynamicActivationInt8WeightConfig())
    return network


def quanto(network: Any, forward: Callable[[Any], object]) -> Any:
    """W8A8 static: activations per tensor, calibrated on one call of ``forward``; weights per channel."""
    from optimum.quanto import Calibration, freeze, qint8, quantize

    quantize(network, weights=qint8, activations=qint8)
    with Calibration():
        forward(network)
    freeze(network)
    return network


def bitsandbytes(network: Any, _: Callable[[Any], object]) -> Any:
    """Linear8bitLt in evaluation without its float path for outliers (threshold 0): activations per token."""
    from bitsandbytes.nn import Linear8bitLt
    from torch.nn import Linear

    for name, layer in list(network.named_modules()):
        if isinstance(layer, Linear):
            sizes = layer.in_features, layer.out_features, layer.bias is not None
            ours = Linear8bitLt(*sizes, has_fp16_weights=False, threshold=0.0)
            ours.load_state_dict(layer.state_dict())
            network.set_submodule(name, ours.to("cpu"))
    return network.eval()


def fbgemm(network: Any, _: Callable[[Any], object]) -> Any:
    """torch.ao's dynamic quantization: activations per tensor in 7 bits, weights per tensor in 8."""
    import torch

    torch.backends.quantized.engine = "fbgemm"
    return torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear}, dtype=torch.qint8)


PEERS = {"torchao": torchao, "quanto": quanto, "bitsandbytes": bitsandbytes, "fbgemm": fbgemm}
PACKAGES = {"torchao": "torchao", "quanto": "optimum-quanto", "bitsandbytes": "bitsandbytes", "fbgemm": "torch"}


def silence() -> None:
    """The peers' notes about optional extensions and deprecations; a peer that fails raises all the same."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def convert(name: str, network: Any, forward: Callable[[Any], object]) -> Any:
    """``network`` made INT8 in place or anew by the library ``name``; ``forward`` calls a network once."""
    import torch

    with torch.no_grad():
        return PEERS[name](network, forward)


def inspect_all(environment: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What :func:`inspect` says of every peer, each in a process of its own; ``{"failed": why}`` of one that fails."""
    return {name: _inspect_in(name, tuple(environment.items())) for name in PEERS}


@cache
def _inspect_in(name: str, environment: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = in_child("peers", "inspect", name, limit=120, **dict(environment))
    except RuntimeError as error:
        return {"failed": str(error)}
    return facts


def inspect(name: str) -> dict[str, Any]:
    """Version, the products dispatched by one linear layer, and two checks with known answers.

    ``ones``: an output of a layer of 768 ones on inputs of ones, 768 unless a sum saturates on the way.
    ``conv1d``: how many of GPT-2's 48 linear layers (transformers' ``Conv1D``) the library's own conversion replaced;
    None for bitsandbytes, which leaves replacing to its user.
    """
    import torch
    from executed import products
    from torch import nn

    from qexp.runner.provenance import package_version

    silence()
    layer = nn.Sequential(nn.Linear(DEPTH, COLUMNS, bias=False)).eval()
    nn.init.ones_(layer[0].weight)
    x = torch.ones(32, DEPTH)
    layer = convert(name, layer, lambda network: network(x))
    with torch.no_grad():
        ones = layer(x).dequantize().flatten()[0].item()
        dispatched = products(lambda: layer(x))
    conv1d = None if name == "bitsandbytes" else _converted_conv1d(name)
    version = package_version(PACKAGES[name])
    return {"version": version, "products": list(dispatched), "ones": ones, "conv1d": conv1d}


def _converted_conv1d(name: str) -> int:
    import torch
    from transformers import GPT2Config, GPT2Model
    from transformers.pytorch_utils import Conv1D

    sizes = {"n_embd": 32, "n_head": 2, "n_layer": LAYERS, "vocab_size": 64, "n_positions": 32}
    network = GPT2Model(GPT2Config(**sizes)).eval()
    ids = torch.arange(32).reshape(1, 32)
    network = convert(name, network, lambda converted: converted(ids))
    return 4 * LAYERS - sum(isinstance(layer, Conv1D) for layer in network.modules())
