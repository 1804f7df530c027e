"""The scale (standard deviation) of every weight, activation and gradient of a network, and what narrow formats lose.

For the analysis of arXiv 2303.11257: a number format keeps a tensor well while its scale lies where the format is
precise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qexp.kernels.formats import (
    E4M3FNUZ,
    E5M2FNUZ,
    FP16,
    Format,
    overflow_fraction,
    signal_to_noise,
    underflow_fraction,
)
from qexp.models.sites import AdaptedModel
from qexp.models.tensor_watch import QUESTIONS, Rows, add_parameters, watched

BAND = (0.1, 10.0)
"""Scales that the authors' guide calls no concern."""
KINDS = ("weight", "activation", "gradient", "weight_gradient", "bias_gradient")
"""What a place may have: its weight, what it returns, the gradient arriving there, and its parameters' gradients."""
FORMATS: dict[str, dict[str, Format]] = {
    "fp16": dict.fromkeys(KINDS, FP16),
    "fp8": {"weight": E4M3FNUZ, "activation": E4M3FNUZ, "gradient": E5M2FNUZ},
}
"""What a tensor of each kind is cast to: in FP8 training parameters' gradients are not."""

Statistics = dict[str, Any]
Scales = Rows[Statistics]


def measure_scales(model: AdaptedModel, batch: Mapping[str, Tensor]) -> Scales:
    """One pass in training mode over ``batch`` on the network's device, backward too where it has ``labels``.

    Statistics: ``std``, ``elements``, and for each of :data:`FORMATS` ``underflow`` and ``overflow`` (shares of
    elements) and ``snr_db`` (None where nothing is lost). Parameters that begin constant (biases, gains) have gradients
    only. Weights, gradients and random numbers stay as they were.
    """
    network = model.module
    devices = [p.device for p in network.parameters() if p.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices), _training_mode(network), torch.enable_grad():
        with watched(model, _statistics) as found:
            output = network(**batch)
            if "labels" in batch:
                parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
                gradients = torch.autograd.grad(output.loss, list(parameters.values()), allow_unused=True)
                add_parameters(found, model, dict(zip(parameters, gradients, strict=True)), _statistics)
    return {name: kinds for name, kinds in found.items() if kinds}


def random_batch(model: AdaptedModel, rows: int, length: int) -> dict[str, Tensor]:
    """Uniformly random tokens [rows, length] and labels, which need no data: the inputs that unit scaling assumes."""
    network: Any = model.module
    config = network.config
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (rows, length), generator=generator)
    labels = tokens.clone()
    if network.loss_type == "ForSequenceClassification":
        labels = torch.randint(max(config.num_labels, 2), (rows,), generator=generator)
        labels = labels.float() if config.problem_type == "regression" else labels
    if network.loss_type == QUESTIONS:
        labels = torch.randint(length, (rows, 2), generator=generator)
    return {"input_ids": tokens.to(device), "labels": labels.to(device)}


def deviations(scales: Scales) -> dict[str, dict[str, float]]:
    """The standard deviations alone: place -> kind -> std."""
    return {name: {kind: found["std"] for kind, found in kinds.items()} for name, kinds in scales.items()}


def casting_noise(exponents: range = range(-24, 17), samples: int = 2**14) -> dict[str, Any]:
    """Signal to noise (dB) of casting N(0, sigma^2) numbers to FP16, E4 and E5, at sigma = 2^exponent."""
    normal = torch.randn(samples, generator=torch.Generator().manual_seed(0))
    formats = {"FP16": FP16, "FP8 E4": E4M3FNUZ, "FP8 E5": E5M2FNUZ}
    curves = {name: [_noise(normal * 2.0**e, fmt) for e in exponents] for name, fmt in formats.items()}
    return {"exponents": list(exponents), "snr_db": curves}


@torch.no_grad()
def standard_deviation(tensor: Tensor, kind: str = "") -> float:
    """To four digits, whatever the kind; 0 of a single element."""
    return float(f"{float(tensor.float().std()):.4g}") if tensor.numel() > 1 else 0.0


@torch.no_grad()
def _statistics(tensor: Tensor, kind: str) -> Statistics:
    x = tensor.detach().float()
    found: Statistics = {"std": standard_deviation(x), "elements": x.numel()}
    for name, formats in FORMATS.items():
        if (fmt := formats.get(kind)) is not None:
            found[name] = {
                "underflow": float(underflow_fraction(x, fmt)),
                "overflow": float(overflow_fraction(x, fmt)),
                "snr_db": _noise(x, fmt),
            }
    return found


def _noise(x: Tensor, fmt: Format) -> float | None:
    snr = signal_to_noise(x, fmt)
    return round(float(snr), 2) if bool(snr.isfinite()) else None


@contextmanager
def _training_mode(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.train()
    try:
        yield
    finally:
        network.train(training)
