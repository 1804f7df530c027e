"""Saving an adapted model with its methods' settings, and loading it back exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qexp.conf.errors import UserError
from qexp.conf.schema import Objective
from qexp.models.folders import new_folder
from qexp.models.loading import check_labels, check_objective, check_sizes, finish, fit_head, network_class, seeded
from qexp.models.quiet import quiet
from qexp.models.sites import AdaptedModel
from qexp.models.sources import PATCH_LAYER_NORM, Checkpoint, first_line, read_config
from qexp.models.tokenizers import read_tokenizer

SETTINGS = "qexp.json"
WEIGHTS = "model.safetensors"
BASELINE = "vanilla"
"""The one method whose model is an ordinary one, which any loader may read."""
RECORDED_VERSIONS = ("qexp", "torch", "transformers", "tokenizers")

Apply = Callable[[AdaptedModel, list[dict[str, Any]]], None]


def save_model(adapted: AdaptedModel, tokenizer: Any, folder: Path | str, settings: Mapping[str, Any]) -> None:
    """Write weights (safetensors), configuration, tokenizer and ``qexp.json`` into ``folder``, all of it or nothing.

    ``settings`` is JSON-able and holds at least ``methods`` (a list of ``{"name": ..., "settings": {...}}``) and
    ``max_length``; library versions are added. The configuration names the methods too, so that a folder whose
    ``qexp.json`` was lost is not taken for an ordinary model. An older ``folder`` is replaced.
    """
    from safetensors.torch import save_model as save_weights

    with new_folder(Path(folder), replace=True) as temporary, quiet():
        save_weights(adapted.module, str(temporary / WEIGHTS), metadata={"format": "pt"})
        tokenizer.save_pretrained(temporary)
        describe(adapted, temporary, settings, [*method_names(settings), *own_parts(adapted)])


def describe(adapted: AdaptedModel, folder: Path, settings: Mapping[str, Any], marks: list[str]) -> None:
    """Write the configuration, with ``marks`` that keep other loaders from taking it for its own, and ``qexp.json``."""
    versions = {name: version(name) for name in RECORDED_VERSIONS}
    config: Any = deepcopy(adapted.module.config)
    config.architectures = [type(adapted.module).__name__]
    config.qexp_methods = marks
    config.save_pretrained(folder)
    text = json.dumps({**settings, "versions": versions}, indent=2)
    (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")


def method_names(settings: Mapping[str, Any]) -> list[str]:
    """The methods of ``settings`` that change a model."""
    return [method["name"] for method in settings["methods"] if method["name"] != BASELINE]


def own_parts(adapted: AdaptedModel) -> list[str]:
    """What a network has that transformers would leave out, beside its methods."""
    config: Any = adapted.module.config
    return [PATCH_LAYER_NORM] if getattr(config, PATCH_LAYER_NORM, False) else []


def is_saved(folder: Path | str) -> bool:
    """Whether ``folder`` holds a model that :func:`save_model` wrote."""
    return Path(folder, SETTINGS).is_file()


def read_settings(folder: Path | str) -> dict[str, Any]:
    """The ``qexp.json`` of a saved model. Raises UserError when it is missing or damaged."""
    path = Path(folder, SETTINGS)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{str(folder)!r} has no {SETTINGS}: without it the model's methods are unknown and would be dropped"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} cannot be read: {first_line(error)}") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("methods"), list):
        raise UserError(f"{str(path)!r} does not list the model's methods")
    return settings


def load_saved(
    folder: Path | str, objective: Objective, num_labels: int | None, apply: Apply
) -> tuple[AdaptedModel, dict[str, Any]]:
    """The saved model in evaluation mode, adapted and with its methods, and its settings.

    ``apply`` receives the adapted network and ``settings["methods"]`` and puts the methods in place; then every weight
    is read, and one too few or too many is an error. Raises UserError for whatever does not fit.
    """
    from qexp.models.adapt import adapt

    settings = read_settings(folder)
    checkpoint = Checkpoint(str(folder))
    with quiet():
        config = _saved_config(checkpoint, objective, num_labels)
        tokenizer = None if objective == "image_classification" else read_tokenizer(checkpoint)
        fit_head(config, objective, num_labels, tokenizer)
        with seeded(0):  # every weight is overwritten below
            adapted = adapt(finish(network_class(objective).from_config(config), config.model_type))
            apply(adapted, settings["methods"])
    _read_weights(adapted, Path(folder, WEIGHTS))
    adapted.module.eval()
    return adapted, settings


def with_new_head(
    folder: Path | str, objective: Objective, num_labels: int | None, tokenizer: Any, max_length: int, seed: int
) -> Any:
    """A network of the saved model's dimensions with the head of ``objective`` and random weights, not yet adapted.

    For a method that brings it into the form in which its weights were trained; :func:`read_body` reads them then.
    Raises UserError as :func:`~qexp.models.loading.load_model` does.
    """
    from transformers import AutoConfig

    with quiet(), seeded(seed):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        check_objective(config.model_type, objective)
        check_labels(config, objective, num_labels)
        fit_head(config, objective, num_labels, tokenizer)
        check_sizes(config, objective, tokenizer, max_length)
        return finish(network_class(objective).from_config(config), config.model_type)


def read_body(adapted: AdaptedModel, folder: Path | str) -> None:
    """Give ``adapted`` the saved weights of its body, and of its head too where the saved one is of the same kind.

    Only a head and a pooler may stay as they are. Raises UserError for a weight of the body that is missing, too many,
    or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network: Any = adapted.module
    path, same = (
        Path(folder, WEIGHTS),
        read_config(Checkpoint(str(folder)))["architectures"] == [type(network).__name__],
    )
    if same:
        _read_weights(adapted, path)
        return
    inside = f"{network.base_model_prefix}."
    try:
        saved = {name: weight for name, weight in load_file(path).items() if name.startswith(inside)}
        report = network.load_state_dict(saved, strict=False)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{str(path)!r} does not fit the model and its methods: {first_line(error)}") from error
    missing = [name for name in report.missing_keys if name.startswith(inside)]
    unfit = [name for name in (*missing, *report.unexpected_keys) if ".pooler." not in name]
    if unfit:
        raise UserError(f"{str(path)!r} does not fit the model and its methods: {unfit[0]!r} is in one of them only")


def _saved_config(checkpoint: Checkpoint, objective: Objective, num_labels: int | None) -> Any:
    from transformers import AutoConfig

    read_config(checkpoint)
    config = AutoConfig.from_pretrained(checkpoint.location, trust_remote_code=False, local_files_only=True)
    check_objective(config.model_type, objective)
    check_labels(config, objective, num_labels)
    expected = network_class(objective)._model_mapping[type(config)].__name__
    if config.architectures != [expected]:
        raise UserError(f"{checkpoint.location!r} holds a {config.architectures}, and {objective} needs a {expected}")
    return config


def _read_weights(adapted: AdaptedModel, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        load_model(adapted.module, str(path), strict=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{str(path)!r} does not fit the model and its methods: {first_line(error)}") from error
