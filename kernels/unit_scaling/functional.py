"""Every unit-scaled op under one name: ``from qexp.kernels.unit_scaling import functional as U``."""

from qexp.kernels.unit_scaling.elementwise import add, dropout, gelu, relu, sigmoid, silu, softmax, sum, tanh
from qexp.kernels.unit_scaling.losses import cross_entropy, mse_loss
from qexp.kernels.unit_scaling.parameters import bias_add, embedding, layer_norm, multiply_gain, rms_norm
from qexp.kernels.unit_scaling.products import attention, conv1d, linear, linear_readout, matmul
from qexp.kernels.unit_scaling.residual import residual_add, residual_split

__all__ = [
    "add",
    "attention",
    "bias_add",
    "conv1d",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "linear",
    "linear_readout",
    "matmul",
    "mse_loss",
    "multiply_gain",
    "relu",
    "residual_add",
    "residual_split",
    "rms_norm",
    "sigmoid",
    "silu",
    "softmax",
    "sum",
    "tanh",
]
