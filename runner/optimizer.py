"""Which parameters are trained, and with which learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from qexp.conf.errors import UserError
from qexp.conf.schema import TrainConfig
from qexp.methods.base import ParameterRule


def freeze(module: nn.Module, parts: Sequence[str]) -> int:
    """Stop training of the named parts and return how many parameters (tensors) that froze.

    ``embeddings`` means every embedding table; anything else is a substring of parameter names.

    Raises:
        UserError: if a part matches no parameter.
    """
    frozen = 0
    for part in parts:
        names = _embedding_names(module) if part == "embeddings" else {n for n, _ in _named(module) if part in n}
        if not names:
            raise UserError(
                f"train.freeze: no parameter of this model matches '{part}'; use embeddings or part of a name"
            )
        for name, parameter in _named(module):
            if name in names:
                parameter.requires_grad_(False)
                frozen += 1
    return frozen


def parameter_groups(module: nn.Module, cfg: TrainConfig, rules: Sequence[ParameterRule]) -> list[dict[str, Any]]:
    """Optimizer groups: weight decay on matrices only (and on norm gains where asked), then the methods' rules.

    The papers' recipes: no decay on biases and LayerNorm gains (BERT), or on biases only (OPT: ``decay_layernorm``).
    """
    undecayed = _undecayed_names(module, cfg.decay_layernorm)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in _named(module):
        if not parameter.requires_grad:
            continue
        rate, decay = cfg.learning_rate, 0.0 if name in undecayed else cfg.weight_decay
        for rule in (rule for rule in rules if rule.match in name):
            rate *= rule.lr_factor
            decay = decay if rule.weight_decay is None else rule.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def keep_embeddings_in_32_bits(module: nn.Module) -> None:
    """Have bitsandbytes' 8-bit optimizers keep the state of embedding tables in 32 bits, as its authors advise."""
    import bitsandbytes

    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    for child in module.modules():
        if isinstance(child, nn.Embedding):
            manager.register_module_override(child, "weight", {"optim_bits": 32})


def _named(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(module.named_parameters())


def _embedding_names(module: nn.Module) -> set[str]:
    return {f"{name}.weight" for name, child in module.named_modules() if isinstance(child, nn.Embedding)}


def _undecayed_names(module: nn.Module, decay_layernorm: bool) -> set[str]:
    names = {name for name, _ in _named(module) if name.endswith("bias")}
    if not decay_layernorm:
        norms = [name for name, child in module.named_modules() if type(child).__name__.endswith("Norm")]
        names |= {f"{name}.weight" for name in norms}
    return names
