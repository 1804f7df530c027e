"""Methods by name: every folder here is one, found without importing it. Neither names nor settings need torch."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

import qexp.methods
from qexp.conf.errors import UserError
from qexp.conf.schema import MethodChoice, ModelConfig

if TYPE_CHECKING:
    from qexp.methods.base import BaseMethod

BASELINE = "vanilla"


@cache
def names() -> tuple[str, ...]:
    """All registered methods, sorted."""
    return tuple(sorted(info.name for info in pkgutil.iter_modules(qexp.methods.__path__) if info.ispkg))


@cache
def settings_class(name: str) -> type[Any]:
    """The ``Settings`` dataclass of a method. Raises ``UserError`` for an unknown name, offering the nearest."""
    if name not in names():
        nearest = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
        offer = f"did you mean {', '.join(nearest)}?" if nearest else f"choose from {', '.join(names())}"
        raise UserError(f"unknown method {name!r}; {offer}")
    found: type[Any] = importlib.import_module(f"qexp.methods.{name}.settings").Settings
    return found


@cache
def later_settings(name: str) -> Mapping[str, Any]:
    """Settings of a method that came after its first records, each with the value that holds for those: ``LATER``."""
    settings_class(name)
    found: Mapping[str, Any] = getattr(importlib.import_module(f"qexp.methods.{name}.settings"), "LATER", {})
    return found


def with_later_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` as a record or a saved network keeps them, with those that came after it."""
    return {**later_settings(name), **settings}


def validate(name: str, settings: Mapping[str, Any]) -> Any:
    """``settings`` as the method's ``Settings``; a wrong key or value is a ``UserError`` that names it."""
    cls = settings_class(name)
    known = tuple(cls.__dataclass_fields__)
    for key in settings:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1)
            offer = f"did you mean {nearest[0]}?" if nearest else f"it takes {', '.join(known) or 'no settings'}"
            raise UserError(f"method {name!r} has no setting {key!r}; {offer}")
    try:
        return cls(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        got = f", not {first['input']!r}" if key else ""
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"method.{key or name}: {message}{got}") from None


def acts_in_training(settings: Any) -> bool:
    """Whether a method with these settings changes what is trained: its ``Settings`` may say that it does not."""
    return bool(getattr(settings, "acts_in_training", True))


def trained_with(choices: Sequence[MethodChoice]) -> tuple[MethodChoice, ...]:
    """The methods that a network is trained with: those of ``choices`` that act in training, or the baseline."""
    acting = tuple(choice for choice in choices if acts_in_training(validate(choice.name, choice.settings)))
    return acting or (MethodChoice(BASELINE),)


def from_scratch_only(choices: Sequence[MethodChoice]) -> tuple[MethodChoice, ...]:
    """Those of the methods that trained weights have to be trained with: a method's ``Settings`` may say so."""
    return tuple(one for one in choices if getattr(settings_class(one.name), "from_scratch_only", False))


def quantizes_training(choices: Sequence[MethodChoice]) -> bool:
    """Whether one of the methods trains with quantizers; a method's ``Settings`` may say so, and then has ``bits``."""
    return any(getattr(settings_class(choice.name), "quantizes_training", False) for choice in choices)


def in_integers(choices: Sequence[MethodChoice]) -> bool:
    """Whether one of the methods multiplies integers itself; a method's ``Settings`` may say so."""
    settings = (validate(choice.name, choice.settings) for choice in choices)
    return any(getattr(one, "in_integers", False) for one in settings)


def settled(choice: MethodChoice, model: ModelConfig) -> MethodChoice:
    """``choice`` with the settings that it leaves to the model; a method's ``Settings`` may say which."""
    settle = getattr(settings_class(choice.name), "settled", None)
    return choice if settle is None else replace(choice, settings=settle(choice.settings, model))


def create(name: str, settings: Mapping[str, Any]) -> BaseMethod:
    """The method ``name`` with these settings; imports its code, and so torch."""
    validated = validate(name, settings)
    method: BaseMethod = importlib.import_module(f"qexp.methods.{name}.method").METHOD(validated)
    return method
