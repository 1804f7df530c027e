"""``torch.nn`` modules that hold the settings of the unit-scaled ops and call them.

Weights begin as N(0, 1), biases as 0, gains as 1; the factors assume these, so no other initialisation may be mixed in.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from qexp.kernels.unit_scaling import functional as U
from qexp.kernels.unit_scaling.losses import Reduction
from qexp.kernels.unit_scaling.products import linear_factors, readout_factors
from qexp.kernels.unit_scaling.rules import PAPER, Rules


class Linear(nn.Linear):
    """:func:`~qexp.kernels.unit_scaling.products.linear`."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, rules: Rules = PAPER, uses: int = 1):
        super().__init__(in_features, out_features, bias)
        self.rules = rules
        self.uses = uses

    def reset_parameters(self) -> None:
        _unit_normal(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return U.linear(input, self.weight, self.bias, self.rules, self.uses)

    def factors(self, rows: int) -> tuple[float, float, float]:
        """What multiplies the output, the input's gradient, and those of weight and bias, for so many rows."""
        return linear_factors(self.weight, rows, self.rules)


class LinearReadout(Linear):
    """:func:`~qexp.kernels.unit_scaling.products.linear_readout`: the last projection."""

    def forward(self, input: Tensor) -> Tensor:
        return U.linear_readout(input, self.weight, self.bias, self.rules, self.uses)

    def factors(self, rows: int) -> tuple[float, float, float]:
        return readout_factors(self.weight, rows, self.rules)


class Conv1d(nn.Conv1d):
    """:func:`~qexp.kernels.unit_scaling.products.conv1d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        rules: Rules = PAPER,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.settings = (stride, padding, dilation, groups)
        self.rules = rules

    def reset_parameters(self) -> None:
        _unit_normal(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return U.conv1d(input, self.weight, self.bias, *self.settings, self.rules)


class Embedding(nn.Embedding):
    """:func:`~qexp.kernels.unit_scaling.parameters.embedding`."""

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, rules: Rules = PAPER):
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.rules = rules

    def forward(self, input: Tensor) -> Tensor:
        return U.embedding(input, self.weight, self.padding_idx, self.rules)


class LayerNorm(nn.LayerNorm):
    """:func:`~qexp.kernels.unit_scaling.parameters.layer_norm`."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        rules: Rules = PAPER,
    ):
        super().__init__(_shape(normalized_shape), eps, elementwise_affine, bias)
        self.rules = rules

    def forward(self, input: Tensor) -> Tensor:
        return U.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps, self.rules)


class RMSNorm(nn.RMSNorm):
    """:func:`~qexp.kernels.unit_scaling.parameters.rms_norm`; whether it has a gain is ``rules.rms_norm_gain``."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float | None = None, rules: Rules = PAPER):
        super().__init__(_shape(normalized_shape), eps, rules.rms_norm_gain)
        self.rules = rules

    def forward(self, input: Tensor) -> Tensor:
        return U.rms_norm(input, self.normalized_shape, self.weight, self.eps, self.rules)


class GELU(nn.GELU):
    """:func:`~qexp.kernels.unit_scaling.elementwise.gelu`."""

    def __init__(self, approximate: str = "none", rules: Rules = PAPER):
        super().__init__(approximate)
        self.rules = rules

    def forward(self, input: Tensor) -> Tensor:
        return U.gelu(input, self.approximate, self.rules)


class _Activation(nn.Module):
    def __init__(self, rules: Rules = PAPER):
        super().__init__()
        self.rules = rules


class ReLU(_Activation):
    """:func:`~qexp.kernels.unit_scaling.elementwise.relu`."""

    def forward(self, input: Tensor) -> Tensor:
        return U.relu(input, self.rules)


class SiLU(_Activation):
    """:func:`~qexp.kernels.unit_scaling.elementwise.silu`."""

    def forward(self, input: Tensor) -> Tensor:
        return U.silu(input, self.rules)


class Tanh(_Activation):
    """:func:`~qexp.kernels.unit_scaling.elementwise.tanh`."""

    def forward(self, input: Tensor) -> Tensor:
        return U.tanh(input, self.rules)


class Sigmoid(_Activation):
    """:func:`~qexp.kernels.unit_scaling.elementwise.sigmoid`."""

    def forward(self, input: Tensor) -> Tensor:
        return U.sigmoid(input, self.rules)


class Softmax(nn.Module):
    """:func:`~qexp.kernels.unit_scaling.elementwise.softmax`."""

    def __init__(self, dim: int = -1, rules: Rules = PAPER):
        super().__init__()
        self.dim = dim
        self.rules = rules

    def forward(self, input: Tensor) -> Tensor:
        return U.softmax(input, self.dim, self.rules)


class Dropout(nn.Dropout):
    """:func:`~qexp.kernels.unit_scaling.elementwise.dropout`."""

    def __init__(self, p: float = 0.5):
        super().__init__(p)

    def forward(self, input: Tensor) -> Tensor:
        return U.dropout(input, self.p, self.training)


class Residual(nn.Module):
    """(1 - tau)^1/2 x + tau^1/2 branch(x) (:mod:`~qexp.kernels.unit_scaling.residual`)."""

    def __init__(self, branch: nn.Module, tau: float):
        super().__init__()
        self.branch = branch
        self.tau = tau

    def forward(self, input: Tensor) -> Tensor:
        inside, skip = U.residual_split(input, self.tau)
        return U.residual_add(self.branch(inside), skip, self.tau)


class CrossEntropyLoss(nn.Module):
    """:func:`~qexp.kernels.unit_scaling.losses.cross_entropy`."""

    def __init__(self, ignore_index: int = -100, reduction: Reduction = "mean"):
        super().__init__()
        self.ignore_index = ignore_index
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return U.cross_entropy(input, target, self.ignore_index, self.reduction)


class MSELoss(nn.Module):
    """:func:`~qexp.kernels.unit_scaling.losses.mse_loss`."""

    def __init__(self, reduction: Reduction = "mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return U.mse_loss(input, target, self.reduction)


def _unit_normal(weight: Tensor, bias: Tensor | None) -> None:
    nn.init.normal_(weight)
    if bias is not None:
        nn.init.zeros_(bias)


def _shape(normalized_shape: int | Sequence[int]) -> list[int]:
    return [normalized_shape] if isinstance(normalized_shape, int) else list(normalized_shape)
