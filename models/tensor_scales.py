"""The scale (standard deviation) of every weight, activation and gradient of a network, and what narrow formats lose.

For the analysis of arXiv 2303.11257: a number format keeps a tensor well while its scale lies where the format is
precise. Attention counts as one op: its scores and probabilities have no rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
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
from qexp.models.adapters._common import base_of
from qexp.models.attention import NAME, AttentionParts
from qexp.models.sites import AdaptedModel

BAND = (0.1, 10.0)
"""Scales that the authors' guide calls no concern."""
KINDS = ("weight", "activation", "gradient", "weight_gradient", "bias_gradient")
"""What a place may have: its weight, what it returns, the gradient arriving there, and its parameters' gradients."""
FORMATS: dict[str, dict[str, Format]] = {
    "fp16": dict.fromkeys(KINDS, FP16),
    "fp8": {"weight": E4M3FNUZ, "activation": E4M3FNUZ, "gradient": E5M2FNUZ},
}
"""What a tensor of each kind is cast to: in FP8 training parameters' gradients are not."""
QUESTIONS = "ForQuestionAnswering"
"""transformers' name for the loss of networks that find answers."""
_INSIDE_ATTENTION = ("scores", "probs", "probability", "rescale")

Statistics = dict[str, Any]
Scales = dict[str, dict[str, Statistics]]
"""Place (a module's path, or ``<path>.input``) -> kind -> statistics, in the network's order. Paths are without the
name of the body (``transformer.``) and of qexp's parts."""


def measure_scales(model: AdaptedModel, batch: Mapping[str, Tensor]) -> Scales:
    """One pass in training mode over ``batch`` on the network's device, backward too where it has ``labels``.

    Statistics: ``std``, ``elements``, and for each of :data:`FORMATS` ``underflow`` and ``overflow`` (shares of
    elements) and ``snr_db`` (None where nothing is lost). Parameters that begin constant (biases, gains) have gradients
    only, and what no gradient reaches has none; no softmax sees a key's bias, whose gradient is left out. Weights,
    gradients and random numbers stay as they were.
    """
    network, found = model.module, _weights(model)
    devices = [p.device for p in network.parameters() if p.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices), _training_mode(network), ExitStack() as stack, torch.enable_grad():
        for handle in _hooks(model, found):
            stack.callback(handle.remove)
        output = network(**batch)
        if "labels" in batch:
            parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
            gradients = torch.autograd.grad(output.loss, list(parameters.values()), allow_unused=True)
            _add_parameters(found, model, dict(zip(parameters, gradients, strict=True)))
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
    """The standard deviations alone, to four digits: place -> kind -> std."""
    return {
        name: {kind: float(f"{found['std']:.4g}") for kind, found in kinds.items()} for name, kinds in scales.items()
    }


def casting_noise(exponents: range = range(-24, 17), samples: int = 2**14) -> dict[str, Any]:
    """Signal to noise (dB) of casting N(0, sigma^2) numbers to FP16, E4 and E5, at sigma = 2^exponent."""
    normal = torch.randn(samples, generator=torch.Generator().manual_seed(0))
    formats = {"FP16": FP16, "FP8 E4": E4M3FNUZ, "FP8 E5": E5M2FNUZ}
    curves = {name: [_noise(normal * 2.0**e, fmt) for e in exponents] for name, fmt in formats.items()}
    return {"exponents": list(exponents), "snr_db": curves}


def _weights(model: AdaptedModel) -> Scales:
    """Rows for all modules and input sites, in the network's order, with statistics of the modules' weights."""
    found: Scales = {}
    inputs = {site.module for site in model.sites.activations() if site.kind == "input"}
    for path, module in model.module.named_modules():
        if path in inputs:
            found[f"{_place(model, path)}.input"] = {}
        weight = module._parameters.get("weight")
        row = {} if weight is None or weight.ndim < 2 else {"weight": _statistics(weight, "weight")}
        found[_place(model, path)] = row
    return found


def _add_parameters(found: Scales, model: AdaptedModel, gradients: Mapping[str, Tensor | None]) -> None:
    unseen = _unseen_biases(model)
    for name, gradient in gradients.items():
        path, _, parameter = name.rpartition(".")
        if gradient is not None and bool(gradient.any()) and name not in unseen:
            is_bias = parameter == "bias"
            place = _place(model, path if is_bias or parameter == "weight" else name)
            kind = "bias_gradient" if is_bias else "weight_gradient"
            found.setdefault(place, {})[kind] = _statistics(gradient, kind)


def _unseen_biases(model: AdaptedModel) -> set[str]:
    """Biases that move all that one softmax is of alike: it does not see them, and rounding is their gradient.

    Keys' in attention; and where the softmax is over a sequence's tokens, what is added to each of them last.
    """
    keys = {info.key for info in model.attention} - {info.value for info in model.attention}
    unseen = {linear.module for linear in model.linears if linear.output in keys}
    network: Any = model.module
    if network.loss_type == QUESTIONS:
        unseen |= {"qa_outputs", model.sites.activations()[-1].module}
    return {f"{module}.bias" for module in unseen}


def _place(model: AdaptedModel, path: str) -> str:
    _, prefix = base_of(model.module)
    return path.removeprefix(prefix).replace(f".{NAME}.", ".").removesuffix(f".{NAME}")


def _hooks(model: AdaptedModel, found: Scales) -> Iterator[Any]:
    """Hooks on every module without parts of its own, and on the sites that are inputs; returned as handles."""
    kept: list[Tensor] = []  # a tensor that is freed may leave its address to another

    def note(place: str, tensor: Any) -> None:
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            return
        if any(tensor.data_ptr() == t.data_ptr() and tensor.shape == t.shape for t in kept):
            return  # an identity hands on what is noted already
        kept.append(tensor)
        row = found.setdefault(place, {})
        row["activation"] = _statistics(tensor, "activation")
        if tensor.requires_grad:
            tensor.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: row.update(gradient=_statistics(gradient, "gradient"))
            )

    def after(place: str, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if any(isinstance(argument, Tensor) for argument in args):  # else it hands on a parameter: an initial state
            note(place, output)

    for path, module in model.module.named_modules():
        place = _place(model, path)
        if not any(True for _ in module.children()) and not _is_inside_attention(model, path):
            yield module.register_forward_hook(partial(after, place))
    for site in model.sites.activations():
        if site.kind == "input":
            target, place = model.module.get_submodule(site.module), f"{_place(model, site.module)}.input"
            yield target.register_forward_pre_hook(lambda _, args, place=place: note(place, args[0]))


def _is_inside_attention(model: AdaptedModel, name: str) -> bool:
    parent, _, part = name.rpartition(".")
    return part in _INSIDE_ATTENTION and isinstance(model.module.get_submodule(parent), AttentionParts)


@torch.no_grad()
def _statistics(tensor: Tensor, kind: str) -> Statistics:
    x = tensor.detach().float()
    found: Statistics = {"std": float(x.std()) if x.numel() > 1 else 0.0, "elements": x.numel()}
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
