"""From overrides to an :class:`ExperimentConfig`: Hydra's grammar and groups, and none of its types beyond this room.

In order: each group's YAML holds the paper's values; its ``scales:`` block says what changes below paper scale; the
user's values win over both; then the schema checks the whole. What the user left open and what decides how the run goes
(the training recipe, the objective) is settled here, so that a configuration says everything about its run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from qexp.conf.catalog import SCALES
from qexp.conf.errors import UserError
from qexp.conf.plain import as_data, copied, copied_value
from qexp.conf.schema import (
    IMAGE_KINDS,
    QUESTION_KINDS,
    ExperimentConfig,
    MethodChoice,
    Objective,
    QuantConfig,
    TaskConfig,
    TrainConfig,
)
from qexp.methods.registry import from_scratch_only, quantizes_training, settled
from qexp.models.sources import MASKED_FAMILIES, family_of, is_pretrained
from qexp.results.select import flatten
from qexp.runner import choices
from qexp.runner.characters import settle_characters
from qexp.runner.checking import check, check_key
from qexp.runner.devices_choice import check_devices
from qexp.runner.images import settle_images
from qexp.runner.ood import settle_ood
from qexp.runner.overrides import Request, Value, choose, known, parse
from qexp.runner.precision_choice import settle_precision
from qexp.runner.pretraining import settle_pretraining

Tree = dict[str, Any]
"""A configuration before it is checked: ``method.<name>.<setting>``, the other groups, and the keys of none."""
MISSING = "???"
"""What a YAML file holds where a value must be given."""


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
        tree["quant"] = choices.choice("quant", groups["quant"])
    config = _settle(copied(tree), request, implied)
    if "train" not in request.groups:
        tree["train"] = choices.choice("train", groups.get("train", _recipe(config)))
        config = _settle(tree, request, implied)
    asked = [value.key for value in request.values]
    config = settle_precision(settle_images(settle_characters(config, asked), asked), asked)
    check_devices(config)
    config = settle_pretraining(
        config,
        lambda name: _further_task(name, config),
        lambda name, settings: _recipe_of(name, settings, config, implied),
    )
    return settle_ood(config, asked, lambda name: _further_task(name, config))


def compose_dict(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """:func:`compose` as plain JSON-able data, in the form in which a record keeps it."""
    return to_dict(compose(overrides))


def to_dict(config: ExperimentConfig) -> dict[str, Any]:
    """A configuration as JSON-able data: dictionaries, lists and plain values."""
    plain: dict[str, Any] = _plain(as_data(config))
    return plain


def compose_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """``(key, value in a, value in b)`` wherever two resolved configurations differ; None where a key is absent."""
    left, right = flatten(a), flatten(b)
    keys = dict.fromkeys([*left, *right])
    return [(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def _settle(tree: Tree, request: Request, implied: Mapping[str, Any]) -> ExperimentConfig:
    """Lay the scale, what the methods imply, and the user's values over the choices; check; settle what is open."""
    names = tuple(tree["method"])
    _apply_scale(tree)
    for key, wanted in implied.items():
        _set(tree, key, wanted)
    for value in request.values:
        _apply(tree, value, names)
    data = _resolve(tree)
    methods = {name: {k: v for k, v in data["method"][name].items() if k != "name"} for name in names}
    config = check({key: value for key, value in data.items() if key != "method"}, methods)
    if config.model.source != "scratch" and config.model.path is None:
        raise UserError("model.path must be given: model.path=organisation/name, or a local folder")
    methods_with_bits = (_with_bits(choice, config.quant) for choice in config.method)
    config = replace(config, method=tuple(settled(choice, config.model) for choice in methods_with_bits))
    return replace(config, task=replace(config.task, objective=resolve_objective(config)))


def _further_task(name: str, config: ExperimentConfig) -> TaskConfig:
    """The task that ``task=name`` would choose at the scale of ``config``."""
    task, place = choose("task", name)
    return _task_at(task, tuple(place), config.scale)


@lru_cache(maxsize=256)
def _task_at(task: str, place: tuple[Value, ...], scale: str) -> TaskConfig:
    """Nothing else decides it, and the cells of a table name the same few."""
    request = Request(groups={"task": task, "scale": scale}, values=place)
    return _settle(_compose_groups(request), request, {}).task


def _recipe_of(
    name: str, settings: Mapping[str, Any], config: ExperimentConfig, implied: Mapping[str, Any]
) -> TrainConfig:
    """The recipe that ``train=name`` would choose at the scale of ``config``, with ``settings`` in place of its own.

    ``implied`` by the methods, it holds here too where the pretraining has them.
    """
    values = tuple(Value(f"train.{key}", value) for key, value in settings.items())
    request = Request(groups={"train": known("train", name), "scale": config.scale}, values=values)
    own = from_scratch_only(config.method)
    shared = {key: value for key, value in implied.items() if own and key.startswith("train.")}
    train = _settle(_compose_groups(request), request, shared).train
    run = settle_precision(replace(config, train=train, method=own), [value.key for value in values])
    check_devices(run)
    return run.train


def _with_bits(choice: MethodChoice, quant: QuantConfig) -> MethodChoice:
    """Settle the bits that a method trains at: where it names none, the first that are evaluated."""
    if not quantizes_training([choice]) or choice.settings["bits"] is not None:
        return choice
    if not quant.bits:
        raise UserError(f"method={choice.name} trains with quantizers: choose method.bits=w8a8, or quant.bits=[w8a8]")
    return replace(choice, settings={**choice.settings, "bits": quant.bits[0]})


def _compose_groups(request: Request) -> Tree:
    """What is chosen of every group, the methods by their names, and the keys of no group; the scale is laid on top."""
    chosen = {**choices.default_choices(), **request.groups}
    methods, scale = request.methods or (chosen.pop("method"),), chosen.pop("scale")
    chosen.pop("method", None)
    tree = choices.top()
    tree["method"] = {name: choices.choice("method", name) for name in methods}
    tree |= {group: choices.choice(group, name) for group, name in chosen.items()}
    return choices.merged(tree, choices.choice("scale", scale))


def _take_implied(tree: Tree) -> dict[str, Any]:
    """Remove and return what the methods' YAMLs imply: values of other groups that hold unless the user sets them."""
    found: dict[str, Any] = {}
    for node in tree["method"].values():
        for key, value in node.pop("implies", {}).items():
            if found.setdefault(key, value) != value:
                raise UserError(f"the methods imply {key}={found[key]} and {key}={value}: choose one with {key}=...")
    return found


def _apply_scale(tree: Tree) -> None:
    """Lay each choice's values of the chosen scale over it."""
    for node in (*tree.values(), *tree["method"].values()):
        if isinstance(node, dict) and "scales" in node:
            scales = node.pop("scales")
            if unknown := set(scales) - set(SCALES):
                raise UserError(f"{node.get('name')}: `scales:` names {sorted(unknown)}; scales: {', '.join(SCALES)}")
            choices.merged(node, scales.get(tree["scale"]) or {})


def _apply(tree: Tree, value: Value, methods: tuple[str, ...]) -> None:
    key = check_key(value.key, methods)
    if value.delete:
        parent, _, leaf = key.rpartition(".")
        _node(tree, parent.split(".") if parent else []).pop(leaf, None)
    else:
        _set(tree, key, copied_value(value.value))


def _set(tree: Tree, key: str, value: Any) -> None:
    """Set a dotted key; a dictionary is laid over the one that is there."""
    *parents, leaf = key.split(".")
    choices.merged(_node(tree, parents), {leaf: value})


def _node(tree: Tree, names: Sequence[str]) -> Tree:
    """The group or dictionary of this place, made where there is none."""
    for name in names:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    return tree


def _resolve(tree: Tree) -> Tree:
    try:
        resolved = choices.resolved(tree)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}") from error
    if choices.mentions(resolved, MISSING):
        for key, value in flatten({**resolved, "method": []}).items():
            if value == MISSING:
                raise UserError(f"{key} must be given: {key}=...")
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
    if task.kind in IMAGE_KINDS:
        if task.objective not in ("auto", "image_classification"):
            raise UserError(f"task.objective={task.objective}: task={task.name} classifies images")
        return "image_classification"
    if task.objective == "image_classification":
        raise UserError(f"task.objective=image_classification: task={task.name} has no images")
    if task.kind in ("glue", "pydocs_labels", *QUESTION_KINDS):
        natural: Objective = "regression" if task.subset == "stsb" else "classification"
        natural = "question_answering" if task.kind in QUESTION_KINDS else natural
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
    if objective == "image_classification" and not is_pretrained(config.model):
        return "train_images"
    if objective in ("classification", "regression", "image_classification", "question_answering"):
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
