"""Methods are found by their folders; wrong names and settings are one line that says what would be right."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

import qexp.methods
from qexp.conf.errors import UserError
from qexp.methods.base import BaseMethod
from qexp.methods.registry import create, names, settings_class


def test_folders_are_yamls_are_the_registry():
    folder = Path(qexp.methods.__path__[0])
    folders = {path.name for path in folder.iterdir() if (path / "__init__.py").exists()}
    yamls = {path.name.removesuffix(".yaml") for path in files("qexp.conf").joinpath("method").iterdir()}
    assert set(names()) == folders == yamls
    assert {"vanilla", "clipped_softmax", "gated_attention"} <= folders
    for name in names():
        assert (folder / name / "README.md").read_text().startswith(f"# {name}\n")


@pytest.mark.parametrize("name", names())
def test_yaml_gives_the_settings_and_their_defaults(name):
    text = files("qexp.conf").joinpath("method", f"{name}.yaml").read_text()
    assert text.startswith(f"# qexp run method={name}")
    values = {key: value for key, value in yaml.safe_load(text).items() if key not in ("scales", "implies")}
    assert values.pop("name") == name
    cls = settings_class(name)
    assert set(values) == set(cls.__dataclass_fields__)
    assert cls(**values) == cls()


@pytest.mark.parametrize("name", names())
def test_each_method_is_complete(name):
    method = create(name, {})
    assert isinstance(method, BaseMethod) and method.name == name
    assert method.changes_nothing == (name == "vanilla")
    assert method.paper or method.changes_nothing


def test_unknown_method_offers_the_nearest():
    with pytest.raises(UserError, match="unknown method 'gated_atention'; did you mean gated_attention"):
        create("gated_atention", {})
    with pytest.raises(UserError, match="choose from .*vanilla"):
        create("zzz", {})
    with pytest.raises(UserError, match="unknown method 'registry'"):
        settings_class("registry")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("clipped_softmax", {"gama": -0.1}, "'gama'; did you mean gamma"),
        ("vanilla", {"gamma": -0.1}, "no setting 'gamma'; it takes no settings"),
        ("clipped_softmax", {"gamma": 0.1}, "method.gamma.*less than or equal to 0.*0.1"),
        ("clipped_softmax", {"zeta": 0.9}, "method.zeta.*greater than or equal to 1"),
        ("clipped_softmax", {"gamma": -0.1, "alpha": 2}, "gamma or alpha, not both"),
        ("gated_attention", {"kind": "quadratic"}, "method.kind.*'linear', 'mlp' or 'all_heads'"),
        ("gated_attention", {"pi_init": 1.0}, "method.pi_init"),
        ("gated_attention", {"finetune": "maybe"}, "method.finetune"),
    ],
)
def test_wrong_settings_are_named(name, settings, message):
    with pytest.raises(UserError, match=message) as error:
        create(name, settings)
    assert "\n" not in str(error.value)


def test_names_and_settings_need_no_torch():
    code = "import sys; from qexp.methods.registry import *; [settings_class(n)() for n in names()]"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
