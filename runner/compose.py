"""From overrides to an :class:`ExperimentConfig`: Hydra composes the groups, and Hydra's types stop here.

In order: each group's YAML holds the paper's values; its ``scales:`` block says what changes below paper scale; the
user's values win over both; then the schema checks the whole. What the user left open and what decides how the run goes
(the training recipe, the objective) is settled here, so that a configuration says everything about its run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from qexp.conf.catalog import SCALES
from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig, MethodChoice, Objective, QuantConfig, TaskConfig, TrainConfig
from qexp.methods.registry import quantizes_training
from qexp.models.sources import MASKED_FAMILIES, family_of, is_pretrained
from qexp.results.select import flatten
from qexp.runner.characters import settle_characters
from qexp.runner.checking import check, check_key
from qexp.runner.ood import settle_ood
from qexp.runner.overrides import Request, Value, choose, known, parse
from qexp.runner.precision_choice import settle_precision
from qexp.runner.pretraining import settle_pretraining


def compose(overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The checked configuration of one experiment. Raises ``UserError`` in one line for whatever does not fit.

    ``overrides`` are Hydra's: ``group=choice``, ``key=value`` (``+key=value`` and ``++key=value`` say the same, since
    the schema knows every key), ``~key`` for the schema's default. ``model=organisation/name`` and ``model=folder``
    take any model; ``method=[a,b]`` combines methods, whose settings are then ``method.a.key``.
    """
    request = parse(overrides)
    tree = _compose_groups(request)
    implied = _take_implied(tree)
    groups = {key: implied.pop(key) for key in ("train", "quant") if key in implied}
    if "quant" in groups.keys() - request.groups.keys():
        tree.quant = compose_tree("config", [f"quant={groups['quant']}"]).quant
    config = _settle(deepcopy(tree), request, implied)
    if "train" not in request.groups:
        tree.train = compose_tree("train/" + groups.get("train", _recipe(config)), []).train
        config = _settle(tree, request, implied)
    asked = [value.key for value in request.values]
    config = settle_precision(settle_characters(config, asked), asked)
    config = settle_pretraining(config, lambda name: _further_task(name, config), lambda name: _recipe_of(name, config))
    return settle_ood(config, asked, lambda name: _further_task(name, config))


def compose_dict(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """:func:`compose` as plain JSON-able data, in the form in which a record keeps it."""
    return to_dict(compose(overrides))


def to_dict(config: ExperimentConfig) -> dict[str, Any]:
    """A configuration as JSON-able data: dictionaries, lists and plain values."""
    plain: dict[str, Any] = _plain(asdict(config))
    return plain


def compose_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """``(key, value in a, value in b)`` wherever two resolved configurations differ; None where a key is absent."""
    left, right = flatten(a), flatten(b)
    keys = dict.fromkeys([*left, *right])
    return [(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def _settle(tree: DictConfig, request: Request, implied: Mapping[str, Any]) -> ExperimentConfig:
    """Lay the scale, what the methods imply, and the user's values over the choices; check; settle what is open."""
    by_name = _methods_by_name(tree)
    _apply_scale(tree)
    for key, wanted in implied.items():
        OmegaConf.update(tree, key, wanted, force_add=True)
    for value in request.values:
        _apply(tree, value, tuple(by_name))
    data = _resolve(tree)
    methods = {name: {k: v for k, v in data["method"][name].items() if k != "name"} for name in by_name}
    config = check({key: value for key, value in data.items() if key != "method"}, methods)
    if config.model.source != "scratch" and config.model.path is None:
        raise UserError("model.path must be given: model.path=organisation/name, or a local folder")
    config = replace(config, method=tuple(_with_bits(choice, config.quant) for choice in config.method))
    return replace(config, task=replace(config.task, objective=resolve_objective(config)))


def _further_task(name: str, config: ExperimentConfig) -> TaskConfig:
    """The task that ``task=name`` would choose at the scale of ``config``."""
    task, place = choose("task", name)
    request = Request(groups={"task": task, "scale": config.scale}, values=tuple(place))
    return _settle(_compose_groups(request), request, {}).task


def _recipe_of(name: str, config: ExperimentConfig) -> TrainConfig:
    """The recipe that ``train=name`` would choose at the scale of ``config``."""
    request = Request(groups={"train": known("train", name), "scale": config.scale}, values=())
    return _settle(_compose_groups(request), request, {}).train


def _with_bits(choice: MethodChoice, quant: QuantConfig) -> MethodChoice:
    """Settle the bits that a method trains at: where it names none, the first that are evaluated."""
    if not quantizes_training([choice]) or choice.settings["bits"] is not None:
        return choice
    if not quant.bits:
        raise UserError(f"method={choice.name} trains with quantizers: choose method.bits=w8a8, or quant.bits=[w8a8]")
    return replace(choice, settings={**choice.settings, "bits": quant.bits[0]})


def _compose_groups(request: Request) -> DictConfig:
    packages = {"scale": "@_global_"}
    chosen = [f"{group}{packages.get(group, '')}={name}" for group, name in request.groups.items()]
    if len(request.methods) == 1:
        chosen.append(f"method={request.methods[0]}")
    elif request.methods:
        chosen += ["~method", *(f"+method@method.{name}={name}" for name in request.methods)]
    return compose_tree("config", chosen)


def compose_tree(name: str, chosen: Sequence[str]) -> DictConfig:
    return deepcopy(_composed(name, tuple(chosen)))


@lru_cache(maxsize=64)
def _composed(name: str, chosen: tuple[str, ...]) -> DictConfig:
    """Hydra's composition of ``conf/<name>.yaml``, unresolved. Hydra's global state is left as it was found."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("qexp.conf", version_base="1.3"):
            tree = hydra_compose(name, overrides=list(chosen))
    finally:
        GlobalHydra.instance().hydra = before
    OmegaConf.set_struct(tree, False)
    return tree


def _take_implied(tree: DictConfig) -> dict[str, Any]:
    """Remove and return what the methods' YAMLs imply: values of other groups that hold unless the user sets them."""
    single = isinstance(tree.method.get("name"), str)
    found: dict[str, Any] = {}
    for node in [tree.method] if single else tree.method.values():
        for key, value in (node.pop("implies", None) or {}).items():
            if found.setdefault(key, value) != value:
                raise UserError(f"the methods imply {key}={found[key]} and {key}={value}: choose one with {key}=...")
    return found


def _methods_by_name(tree: DictConfig) -> list[str]:
    """Bring one method to the form of several: ``method.<name>.<setting>``."""
    if isinstance(tree.method.get("name"), str):
        tree.method = {tree.method.name: tree.method}
    return [str(name) for name in tree.method]


def _apply_scale(tree: DictConfig) -> None:
    for node in (*tree.values(), *tree.method.values()):
        if isinstance(node, DictConfig) and "scales" in node:
            scales = node.pop("scales")
            if unknown := set(scales) - set(SCALES):
                raise UserError(f"{node.get('name')}: `scales:` names {sorted(unknown)}; scales: {', '.join(SCALES)}")
            node.merge_with(scales.get(tree.scale) or {})


def _apply(tree: DictConfig, value: Value, methods: tuple[str, ...]) -> None:
    key = check_key(value.key, methods)
    try:
        if value.delete:
            parent, _, leaf = key.rpartition(".")
            (OmegaConf.select(tree, parent) if parent else tree).pop(leaf, None)
        else:
            OmegaConf.update(tree, key, value.value, force_add=True)
    except (OmegaConfBaseException, AttributeError) as error:
        raise UserError(f"{value.key}: cannot be set here") from error


def _resolve(tree: DictConfig) -> dict[str, Any]:
    try:
        data = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} must be given: {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}") from error
    assert isinstance(data, dict)
    resolved = {str(key): value for key, value in data.items()}
    for key in ("data_dir", "results_dir"):
        resolved[key] = _expanded(resolved.get(key))
    resolved["model"]["path"] = _expanded(resolved["model"].get("path"))
    return resolved


def _expanded(path: Any) -> Any:
    """``~`` as the home folder; an empty path (an empty QEXP_DATA_DIR) as none."""
    return (str(Path(path).expanduser()) if path.startswith("~") else path or None) if isinstance(path, str) else path


def resolve_objective(config: ExperimentConfig) -> Objective:
    """What is trained and measured: where ``auto``, by the task's kind, and for running text by the model's family."""
    task, model = config.task, config.model
    if task.kind in ("glue", "pydocs_labels"):
        natural: Objective = "regression" if task.subset == "stsb" else "classification"
        return natural if task.objective == "auto" else task.objective
    if task.objective != "auto" and model.family == "auto":
        return task.objective
    natural = "masked_lm" if family_of(model) in MASKED_FAMILIES else "causal_lm"
    if task.objective not in ("auto", natural):
        raise UserError(f"task.objective={task.objective}: {model.name} learns running text as {natural}")
    return natural


def _recipe(config: ExperimentConfig) -> str:
    """The training recipe for a user who named none."""
    objective = config.task.objective
    if objective in ("classification", "regression"):
        return "finetune"
    if config.task.kind == "characters":
        return "pretrain_chars"
    kind = "mlm" if objective == "masked_lm" else "clm"
    if not is_pretrained(config.model):
        return f"pretrain_{kind}"
    return known("train", config.model.train) if config.model.train else f"continue_{kind}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
