"""The choices as files: names, header comments, and that the listing needs nothing heavy."""

import subprocess
import sys

import pytest

from qexp.conf.catalog import GROUPS, SCALES, SWEEP_GROUPS, choices, did_you_mean, entry, folder

EVERY_CHOICE = [(group, name) for group in (*GROUPS, *SWEEP_GROUPS, "table") for name in choices(group)]


def test_scales_from_the_smallest_up():
    assert choices("scale") == SCALES


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_has_choices(group):
    assert choices(group)


@pytest.mark.parametrize(("group", "name"), EVERY_CHOICE)
def test_every_yaml_begins_with_its_command_and_says_what_it_is(group, name):
    first = (folder(group) / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# qexp "), f"{group}/{name}.yaml must begin with the command that uses it"
    found = entry(group, name)
    assert found.command == first.removeprefix("# ").strip()
    assert found.about and "qexp " not in found.about


@pytest.mark.parametrize(("group", "name"), [pair for pair in EVERY_CHOICE if pair[0] not in ("scale", "table")])
def test_a_choice_names_itself(group, name):
    assert f"\nname: {name}\n" in (folder(group) / f"{name}.yaml").read_text(encoding="utf-8")


def test_did_you_mean():
    assert did_you_mean("gated_atention", ["gated_attention", "vanilla"]) == "; did you mean gated_attention?"
    assert did_you_mean("zzz", ["vanilla"]) == ""


def test_catalog_imports_nothing_heavy():
    code = (
        "import sys, qexp.conf.catalog; print([m for m in ('torch', 'hydra', 'yaml', 'pydantic') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
