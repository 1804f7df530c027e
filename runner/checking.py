"""Check a composed configuration against ``conf/schema.py``; messages name the key and what would be right."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from qexp.conf.catalog import did_you_mean
from qexp.conf.errors import UserError
from qexp.conf.identity import SETTLED_KEYS
from qexp.conf.plain import as_data
from qexp.conf.schema import ExperimentConfig, QuantConfig
from qexp.methods.registry import in_integers, settings_class

INTEGER_BITS = 8
"""Widest weights and activations that the integer products take."""


def check_key(key: str, methods: tuple[str, ...]) -> str:
    """The full name of a key: ``method.gamma`` becomes ``method.clipped_softmax.gamma`` where one method is chosen.

    Raises ``UserError`` with the nearest key when there is none of that name.
    """
    if key.split(".")[0] == "method":
        return _check_method_key(key, methods)
    if key.split(".")[0] in SETTLED_KEYS or not _exists(ExperimentConfig, key.split(".")):
        raise _unknown(key, methods)
    return key


def _check_method_key(key: str, methods: tuple[str, ...]) -> str:
    parts = key.split(".")[1:]
    owner, setting = (parts[0], parts[1:]) if parts and parts[0] in methods else (methods[0], parts)
    if not setting or setting == ["name"]:
        raise UserError(f"{key}: choose methods with method=NAME or method=[NAME,NAME]")
    if owner != parts[0] and len(methods) > 1:
        raise UserError(f"{key}: several methods are chosen, so say whose: method.NAME.{'.'.join(setting)}")
    if not _exists(settings_class(owner), setting):
        raise _unknown(key, methods)
    return ".".join(("method", owner, *setting))


def check(data: Mapping[str, Any], methods: Mapping[str, dict[str, Any]]) -> ExperimentConfig:
    """Validate ``data`` (everything but the methods) and each method's settings. Raises ``UserError``."""
    one = len(methods) == 1
    chosen = []
    for name, given in methods.items():
        prefix = "method" if one else f"method.{name}"
        chosen.append({"name": name, "settings": as_data(validate(settings_class(name), given, prefix))})
    _check_bits(data.get("quant", {}))
    config = validate(ExperimentConfig, {**data, "method": chosen}, "")
    assert isinstance(config, ExperimentConfig)
    if config.eval.integer:
        check_executable(config.quant)
    _check_arithmetic(config)
    _check_family(config)
    return config


def _check_arithmetic(config: ExperimentConfig) -> None:
    """A method whose ``Settings`` say ``only_in_float`` stands beside no integer products."""
    floats = [c.name for c in config.method if getattr(settings_class(c.name), "only_in_float", False)]
    if floats and (config.eval.integer or in_integers(config.method)):
        other = "eval.integer=true" if config.eval.integer else "a method that multiplies integers"
        raise UserError(f"method={floats[0]} computes in floating point only, so {other} cannot stand beside it")


def _check_family(config: ExperimentConfig) -> None:
    """A method whose ``Settings`` list ``families`` has no part for others; of ``auto`` it shows later."""
    model = config.model
    for choice in config.method:
        known = getattr(settings_class(choice.name), "families", (model.family,))
        if model.family not in (*known, "auto"):
            raise UserError(
                f"method={choice.name} has forms of {', '.join(known)} models' embeddings, blocks and heads, and "
                f"model={model.name} is of the {model.family} family, for which they are not worked out: choose "
                "another model, as model=tiny_bert, or another method"
            )


def check_executable(quant: QuantConfig) -> None:
    """Raise ``UserError`` where a setting has no 8-bit integer form, as far as the configuration alone tells."""
    if not quant.bits:
        raise UserError(f"quant={quant.name} has no setting to execute in integers; choose quant.bits=w8a8")
    for bits in quant.bits:
        if any(int(width) > INTEGER_BITS for width in re.findall(r"\d+", bits)):
            raise UserError(f"{bits} cannot be executed in 8-bit integers; leave it out, or choose eval.integer=false")
    if (granularity := quant.activations.granularity) != "per_tensor":
        raise UserError(
            f"activations quantized {granularity} cannot be executed in integers, their scale does not leave the "
            "product: choose quant.activations.granularity=per_tensor, or eval.integer=false"
        )


def all_keys(cls: Any = ExperimentConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key of the schema, groups and their members."""
    for name, hint in _hints(cls).items():
        if prefix + name in ("method", *SETTLED_KEYS):
            continue
        yield prefix + name
        if is_dataclass(hint):
            yield from all_keys(hint, f"{prefix}{name}.")


@cache
def _hints(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields; of ``X | None`` the X."""
    found = {}
    for name, hint in get_type_hints(cls).items():
        members = [member for member in get_args(hint) if member is not NoneType]
        found[name] = members[0] if get_origin(hint) in (Union, UnionType) and len(members) == 1 else hint
    return found


def _exists(cls: Any, parts: list[str]) -> bool:
    hints = _hints(cls)
    if parts[0] not in hints:
        return False
    inner = hints[parts[0]]
    if len(parts) == 1 or get_origin(inner) is dict:
        return True
    return is_dataclass(inner) and _exists(inner, parts[1:])


def _unknown(key: str, methods: tuple[str, ...]) -> UserError:
    return UserError(f"unknown key {key}{_nearest_key(key, methods)}")


def _nearest_key(key: str, methods: tuple[str, ...]) -> str:
    settings = [f"method.{field.name}" for name in methods for field in fields(settings_class(name))]
    known = [*all_keys(), *settings]
    parent, _, leaf = key.rpartition(".")
    beside = [name for name in known if name.rpartition(".")[0] == parent]
    if near := did_you_mean(leaf, [name.rpartition(".")[2] for name in beside]):
        return near.replace("did you mean ", f"did you mean {parent}." if parent else "did you mean ")
    elsewhere = [name for name in known if name.rpartition(".")[2] == leaf]
    if elsewhere:
        return f"; did you mean {' or '.join(elsewhere)}?"
    if near := did_you_mean(key, known):
        return near
    names = ", ".join(name.rpartition(".")[2] for name in beside)
    return f"; keys there: {names}" if names else "; `qexp config` shows every key"


def _check_bits(quant: Mapping[str, Any]) -> None:
    bits = quant.get("bits", ())
    for name in bits if isinstance(bits, (list, tuple)) else [bits]:
        numbers = re.fullmatch(r"w(\d+)a(\d+)", str(name))
        if not numbers:
            raise UserError(f"quant.bits: '{name}' is no setting; write w8a6 for 8-bit weights and 6-bit activations")
        if any(int(number) not in (*range(2, 17), 32) or number[0] == "0" for number in numbers.groups()):
            raise UserError(f"quant.bits: {name} is out of range: bits are 2 to 16, or 32 for float")


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def validate(cls: type, data: Any, prefix: str) -> Any:
    """``data`` as an instance of ``cls``; a ``UserError`` names the first wrong key, below ``prefix``.

    Strict JSON mode: ``true`` is no integer and ``"3"`` no number, while a list serves as a tuple.
    """
    try:
        text = json.dumps(_wrap_scalars(cls, data), allow_nan=False)
    except ValueError:
        _reject_infinities(data, prefix)
        raise
    try:
        return _adapter(cls).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(_explain(cls, error.errors(include_url=False), prefix)) from error


def _reject_infinities(data: Any, key: str) -> None:
    if isinstance(data, dict):
        for name, value in data.items():
            _reject_infinities(value, f"{key}.{name}" if key else str(name))
    elif isinstance(data, (list, tuple)):
        for value in data:
            _reject_infinities(value, key)
    elif isinstance(data, float) and not math.isfinite(data):
        raise UserError(f"{key}={data}: expected a finite number")


def _wrap_scalars(cls: Any, data: Any) -> Any:
    """One value where a list is expected is that list's only item: ``quant.bits=w8a6``."""
    if not isinstance(data, dict):
        return data
    lists, parts = _lists_and_parts(cls)
    single = {name: [data[name]] for name in lists if isinstance(data.get(name), (str, int, float))}
    return data | single | {name: _wrap_scalars(part, data[name]) for name, part in parts.items() if name in data}


@cache
def _lists_and_parts(cls: Any) -> tuple[frozenset[str], dict[str, Any]]:
    """The fields of ``cls`` that are lists of any length, and those that are dataclasses themselves."""
    hints = _hints(cls)
    lists = [name for name, hint in hints.items() if get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis]
    return frozenset(lists), {name: hint for name, hint in hints.items() if is_dataclass(hint)}


def _explain(cls: type, errors: Sequence[Any], prefix: str) -> str:
    """The first wrong key in one line; a union gives an error for each of its members, and each is an expectation."""
    path = _key_path(cls, errors[0]["loc"])
    key = ".".join([prefix, *path] if prefix else path)
    kind, value = errors[0]["type"], errors[0]["input"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown key {key}"
    if kind == "missing" and isinstance(errors[0]["loc"][-1], int):
        return f"{key}={_shown(value)}: expected {errors[0]['loc'][-1] + 1} or more values"
    if kind in ("missing", "missing_argument"):
        return f"{key} must be given: {key}=..."
    if kind == "value_error":
        return f"{key}: {errors[0]['msg'].removeprefix('Value error, ')}"
    same = [error for error in errors if _key_path(cls, error["loc"]) == path]
    expected = " or ".join(error["msg"].removeprefix("Input should be ") for error in same)
    expected = expected.replace("an object", "settings, not one value")
    hint = did_you_mean(str(value), re.findall(r"'([^']*)'", expected)) if kind == "literal_error" else ""
    if kind == "string_type" and isinstance(value, (int, float)):
        hint = f"; a number that is meant as text is quoted: \"{key}='{value}'\""
    return f"{key}={_shown(value)}: expected {expected}{hint}"


def _key_path(cls: Any, location: Sequence[int | str]) -> tuple[str, ...]:
    """The part of an error's location that names keys, without pydantic's marks for unions and list positions."""
    path: list[str] = []
    for part in map(str, location):
        hints = _hints(cls) if isinstance(cls, type) and is_dataclass(cls) else {}
        path.append(part)
        if part not in hints:
            return tuple(path) if len(path) == 1 or is_dataclass(cls) else tuple(path[:-1])
        cls = hints[part]
    return tuple(path)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
