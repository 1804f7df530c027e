"""The YAML files of ``conf/`` as plain data: read once in a process, and merged as Hydra merges them.

Hydra's own composition reads every file anew and takes a tenth of a second; a plan of all tables composes a thousand
configurations. A test compares the two for every choice.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from qexp.conf import catalog
from qexp.conf.plain import copied

BUILDS_ON = "defaults"
"""Key of the choices that a choice is laid over, in their order: ``defaults: [w8a8]``."""
_VARIABLE = re.compile(r"\$\{oc\.env:(\w+)")


def choice(group: str, name: str) -> dict[str, Any]:
    """``conf/<group>/<name>.yaml`` laid over what it builds on; a copy of the caller's own."""
    return copied(_choice(group, name))


def top(name: str = "config") -> dict[str, Any]:
    """``conf/<name>.yaml`` without its choices; what it takes from the environment is filled in now."""
    return copied(_top(name, tuple(map(os.environ.get, _variables(name)))))


def default_choices(name: str = "config") -> dict[str, str]:
    """Group -> what ``conf/<name>.yaml`` chooses, in its order."""
    listed = [item for item in read_yaml(_top_file(name))[BUILDS_ON] if isinstance(item, Mapping)]
    return {key.partition("@")[0]: name for item in listed for key, name in item.items()}


def merged(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``under``, which it changes: dictionaries are merged, anything else is replaced."""
    for key, value in over.items():
        below = under.get(key)
        under[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return under


def mentions(tree: dict[str, Any], mark: str) -> bool:
    """Whether ``mark``, which :func:`repr` leaves as it is, stands anywhere in the tree's text: quicker than a walk."""
    return mark in repr(tree)


def resolved(tree: dict[str, Any]) -> dict[str, Any]:
    """``tree`` with its interpolations (``${key}``, ``${oc.env:NAME}``) filled in. Raises OmegaConf's errors."""
    if not mentions(tree, "${"):
        return tree
    filled: Any = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    return dict(filled)


@cache
def read_yaml(path: Path) -> dict[str, Any]:
    """A file as OmegaConf reads it (``1e-3`` is a number), by libyaml where it is there; shared, so never changed."""
    import yaml

    with path.open(encoding="utf-8") as stream:
        content = yaml.load(stream, Loader=_loader())  # noqa: S506 (a subclass of SafeLoader)
    return dict(content or {})


@cache
def _loader() -> Any:
    from omegaconf._utils import get_yaml_loader

    plain = get_yaml_loader()
    try:
        from yaml._yaml import CParser
    except ImportError:
        return plain

    class Fast(CParser, plain):  # type: ignore[misc, valid-type]
        """OmegaConf's rules on libyaml's parser."""

        def __init__(self, stream: Any):
            CParser.__init__(self, stream)
            for part in plain.__mro__:
                if part.__name__ in ("SafeConstructor", "Resolver"):
                    part.__init__(self)

    return Fast


@cache
def _choice(group: str, name: str) -> dict[str, Any]:
    content = dict(read_yaml(catalog.folder(group) / f"{name}.yaml"))
    under: dict[str, Any] = {}
    for other in content.pop(BUILDS_ON, ()):
        merged(under, choice(group, other))
    return merged(under, content)


@lru_cache(maxsize=2)
def _top(name: str, environment: tuple[str | None, ...]) -> dict[str, Any]:
    """:func:`top` where :func:`_variables` have these values."""
    return resolved({key: value for key, value in read_yaml(_top_file(name)).items() if key != BUILDS_ON})


@cache
def _variables(name: str) -> tuple[str, ...]:
    """Of the environment, those that the file mentions."""
    return tuple(_VARIABLE.findall(_top_file(name).read_text(encoding="utf-8")))


@cache
def _top_file(name: str) -> Path:
    return Path(catalog.__file__).with_name(f"{name}.yaml")
