"""From a Hugging Face network to one whose sites are known and whose attention is qexp's."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

from qexp.conf.errors import UserError
from qexp.models import adapters
from qexp.models.attention import NAME
from qexp.models.sites import AdaptedModel


def model_types() -> dict[str, ModuleType]:
    """Every supported ``config.model_type`` and the adapter module that serves it."""
    found = [info.name for info in pkgutil.iter_modules(adapters.__path__) if not info.name.startswith("_")]
    modules = [importlib.import_module(f"{adapters.__name__}.{name}") for name in sorted(found)]
    return {model_type: module for module in modules for model_type in module.MODEL_TYPES}


def adapt(model: Any) -> AdaptedModel:
    """Adapt a ``PreTrainedModel`` in place: the same parameters under the same names, the same outputs.

    Idempotent: a model adapted before (with its gates and probability functions) is only described again. Raises
    ``UserError`` for a family without an adapter and for cross-attention.
    """
    supported = model_types()
    family = model.config.model_type
    if family not in supported:
        raise UserError(f"no adapter for model family {family!r}; supported: {', '.join(sorted(supported))}")
    if getattr(model.config, "add_cross_attention", False):
        raise UserError("models with cross-attention are not supported; set add_cross_attention=False")
    adapted: AdaptedModel = supported[family].adapt(model)
    model.config._attn_implementation = NAME
    return adapted
