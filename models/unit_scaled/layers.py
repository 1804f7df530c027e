"""The unit-scaled form of every layer that a network may be made of; a layer without one is an error that names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import activations
from transformers.models.bert.modeling_bert import BertLMPredictionHead
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D as TransposedLinear

from qexp.conf.errors import UserError
from qexp.kernels.unit_scaling import functional as U
from qexp.kernels.unit_scaling import modules as M
from qexp.kernels.unit_scaling.products import linear_factors
from qexp.kernels.unit_scaling.rules import Rules

Make = Callable[[Any, Rules], nn.Module]
"""(ordinary layer, rules) -> its unit-scaled form, with the same parameters' names and shapes, freshly initialised."""


class Conv1D(TransposedLinear):  # type: ignore[misc]
    """:class:`~qexp.kernels.unit_scaling.modules.Linear` whose weight lies as [in, out], as GPT-2 keeps it."""

    def __init__(self, out_features: int, in_features: int, rules: Rules):
        super().__init__(out_features, in_features)
        nn.init.normal_(self.weight)
        self.rules = rules

    def forward(self, input: Tensor) -> Tensor:
        return U.linear(input, self.weight.t(), self.bias, self.rules)

    def factors(self, rows: int) -> tuple[float, float, float]:
        """alpha of the output, beta of the input, beta of weight and bias, for an input of so many rows."""
        return linear_factors(self.weight.t(), rows, self.rules)


def _linear(layer: nn.Linear, rules: Rules) -> nn.Module:
    return M.Linear(layer.in_features, layer.out_features, layer.bias is not None, rules)


def _conv1d(layer: Any, rules: Rules) -> nn.Module:
    sizes = layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0], layer.padding[0]
    return M.Conv1d(*sizes, layer.dilation[0], layer.groups, layer.bias is not None, rules)


def _layer_norm(layer: nn.LayerNorm, rules: Rules) -> nn.Module:
    has_gain, has_bias = layer.weight is not None, layer.bias is not None
    return M.LayerNorm(layer.normalized_shape, layer.eps, has_gain, has_bias, rules)


def _embedding(layer: nn.Embedding, rules: Rules) -> nn.Module:
    return M.Embedding(layer.num_embeddings, layer.embedding_dim, layer.padding_idx, rules)


def _gelu(layer: nn.Module, rules: Rules) -> nn.Module:
    return M.GELU("none", rules)


def _tanh_gelu(layer: nn.Module, rules: Rules) -> nn.Module:
    return M.GELU("tanh", rules)


def _silu(layer: nn.Module, rules: Rules) -> nn.Module:
    return M.SiLU(rules)


UNIT_SCALED: dict[type[nn.Module], Make] = {
    nn.Linear: _linear,
    TransposedLinear: lambda layer, rules: Conv1D(layer.nf, layer.nx, rules),
    nn.Conv1d: _conv1d,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    LlamaRMSNorm: lambda layer, rules: M.RMSNorm(layer.weight.shape, layer.variance_epsilon, rules),
    nn.Dropout: lambda layer, rules: M.Dropout(layer.p),
    activations.GELUActivation: _gelu,
    activations.NewGELUActivation: _tanh_gelu,
    activations.GELUTanh: _tanh_gelu,
    nn.SiLU: _silu,
    activations.SiLUActivation: _silu,
    nn.ReLU: lambda layer, rules: M.ReLU(rules),
    nn.Tanh: lambda layer, rules: M.Tanh(rules),
    nn.Sigmoid: lambda layer, rules: M.Sigmoid(rules),
}

HOLDERS = (BertLMPredictionHead,)
"""Modules with a parameter that computes nothing: BERT's head keeps a second name for its decoder's bias."""


def unit_scaled(name: str, layer: nn.Module, rules: Rules, further: Mapping[type[nn.Module], Make]) -> nn.Module | None:
    """The unit-scaled form of ``layer``; None for what only holds others or leaves the scale as it is.

    ``further``: forms of a family's own layers. Raises ``UserError`` for any other layer, naming it: one op without its
    factors spoils the scale of all behind it.
    """
    if (make := further.get(type(layer), UNIT_SCALED.get(type(layer)))) is not None:
        return make(layer, rules).train(layer.training)
    owns_parameters = any(True for _ in layer.parameters(recurse=False)) and not isinstance(layer, HOLDERS)
    if owns_parameters or _is_activation(layer):
        raise UserError(f"{name} is a {type(layer).__name__}, which has no unit-scaled form")
    return None


def _is_activation(layer: nn.Module) -> bool:
    return type(layer).__module__ in (activations.__name__, nn.modules.activation.__name__)


def is_unit_scaled(layer: nn.Module) -> bool:
    return isinstance(getattr(layer, "rules", None), Rules)


def refuse_unit_scaled(network: nn.Module, what: str) -> None:
    """Raises ``UserError`` if a layer is unit-scaled, for ``what`` multiplies weights without its factors."""
    for name, layer in network.named_modules():
        if is_unit_scaled(layer):
            raise UserError(f"{name} is unit-scaled, and {what} would drop its factors: choose one of the two")
