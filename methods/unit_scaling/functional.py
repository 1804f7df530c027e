"""From settings to rules: factors, residual weights, and learning rates of single parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from qexp.kernels.unit_scaling.constraints import CONSTRAINTS
from qexp.kernels.unit_scaling.modules import LinearReadout
from qexp.kernels.unit_scaling.residual import TauRule, depth_tau, fixed_tau, running_mean_tau
from qexp.kernels.unit_scaling.rules import RULES, Rules, no_factor
from qexp.methods.unit_scaling.settings import ATTENTION_TAU, TAU, Settings
from qexp.models.unit_scaled.layers import Conv1D


def rules_of(settings: Settings) -> Rules:
    """The rule set with the constraint, the exponent and the factor of attention that were asked for."""
    rules = replace(RULES[settings.rules], weight_exponent=settings.weight_gradient_exponent)
    if settings.attention == "plain":
        rules = replace(rules, attention=no_factor)
    return rules if settings.constraint is None else replace(rules, constraint=CONSTRAINTS[settings.constraint])


def tau_of(settings: Settings, branches: int, own: TauRule | None) -> TauRule:
    """tau of each of ``branches`` residual branches; even ones are attention's.

    ``own``: the rule of a network that weighs its sums anyway, which holds unless the settings name one.
    """
    if own is not None and settings.residual is None and settings.tau is None and settings.attention_tau is None:
        return own
    if settings.residual_rule == "running_mean":
        return running_mean_tau
    if settings.residual_rule == "depth":
        return depth_tau(branches)
    attention, ffn = fixed_tau(settings.attention_tau or ATTENTION_TAU), fixed_tau(settings.tau or TAU)
    return lambda index: (ffn if index % 2 else attention)(index)


def learning_rate_factors(network: nn.Module, blocks: tuple[str, ...], rule: str) -> Iterator[tuple[str, float]]:
    """Name of a parameter and the factor on its learning rate, where it is not 1.

    ``vectors``: size^-1/2 for one-dimensional ones (authors' character models). ``u_mup`` (2407.17465): fan_in^-1/2 for
    matrices but the readout's, an embedding's fan_in being its width, and in the blocks depth^-1/2 on top.
    """
    inside = tuple(f"{path}." for path in blocks)
    for place, module in network.named_modules():
        for name, parameter in module.named_parameters(place, recurse=False):
            factor = 1.0
            if rule == "vectors" and parameter.ndim == 1:
                factor = parameter.numel() ** -0.5
            if rule == "u_mup":
                factor = _fan_in(module, parameter) ** -0.5 * (len(blocks) ** -0.5 if name.startswith(inside) else 1.0)
            if factor != 1.0:
                yield name, factor


def _fan_in(module: nn.Module, parameter: nn.Parameter) -> int:
    """Rows that one output sums over; 1 for vectors and for the readout."""
    if parameter.ndim < 2 or isinstance(module, LinearReadout):
        return 1
    return parameter.shape[0] if isinstance(module, Conv1D) else parameter[0].numel()
