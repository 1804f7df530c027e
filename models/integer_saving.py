"""Saving an integer model, and loading it back bit for bit, without the float model.

A folder holds the configuration, ``integer.safetensors`` (int8 weights [N, K] unpacked, so that any back end can load
them; scales and zero points of every site; biases and what else stays float) and ``qexp.json`` (methods, widths and
kinds of the grids, a checksum, library versions). Loading puts quantizers with these grids into a fresh network, gives
it the floats that the codes stand for, and converts it as it was converted before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qexp.conf.errors import UserError
from qexp.kernels.quantize import QParams
from qexp.kernels.quantizers import Quantizer
from qexp.models.adapt import adapt
from qexp.models.attachment import WEIGHT, attach, quantizer_at, quantizer_name
from qexp.models.folders import new_folder
from qexp.models.integer import IntegerModel, integer_model
from qexp.models.integer_layers import BORROWED, weight_values
from qexp.models.loading import finish, seeded
from qexp.models.quiet import quiet
from qexp.models.saving import SETTINGS, Apply, describe, method_names, own_parts, read_settings
from qexp.models.sites import AdaptedModel, Site
from qexp.models.sources import INTEGER_WEIGHTS, Checkpoint, first_line, read_config
from qexp.models.surgery import parts_of

FORMAT = 1
KEY = "integer"
"""The entry of ``qexp.json`` that only integer models have."""


def save_integer(
    integer: IntegerModel, folder: Path | str, settings: Mapping[str, Any] | None = None, tokenizer: Any = None
) -> None:
    """Write ``integer`` into ``folder``, all of it or nothing; an older ``folder`` is replaced.

    ``settings`` are those of :func:`~qexp.models.saving.save_model`. ``ValueError`` if they lack a method that changed
    the network: without its settings it would be dropped by loading.
    """
    from safetensors.torch import save_file

    settings = {"methods": [], **(settings or {})}
    _check_methods(integer.adapted, settings)
    with new_folder(Path(folder), replace=True) as temporary, quiet():
        save_file(_tensors(integer.module), temporary / INTEGER_WEIGHTS)
        marks = [*method_names(settings), *own_parts(integer.adapted), integer.bits]
        facts = {"format": FORMAT, "bits": integer.bits, "sha256": _checksum(temporary / INTEGER_WEIGHTS)}
        grids = {KEY: {**facts, "quantizers": _kinds(integer.adapted)}}
        describe(integer.adapted, temporary, {**settings, **grids}, marks)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)


def load_integer(
    folder: Path | str, apply: Apply | None = None, backend: str = "auto", device: str = "cpu"
) -> IntegerModel:
    """The integer model in ``folder``, ready to run on ``backend`` and ``device``.

    ``apply`` receives the adapted network and ``settings["methods"]`` and puts the methods in place; a model of none
    needs none. Raises ``UserError`` for a folder that is damaged, incomplete, of another format, or no integer model.
    """
    settings = read_settings(folder)
    facts = _read_facts(settings, Path(folder, SETTINGS))
    if apply is None and (methods := method_names(settings)):
        raise UserError(
            f"{str(folder)!r} was made with {', '.join(methods)}, which must be put in place: load it with "
            "qexp.runner.export.load_exported"
        )
    adapted = _fresh(folder)
    if apply is not None:
        apply(adapted, settings["methods"])
    path = Path(folder, INTEGER_WEIGHTS)
    _place_quantizers(adapted, facts["quantizers"], path)
    _fill(adapted, _read(path), path)
    if _checksum(path) != facts["sha256"]:
        raise UserError(f"{str(path)!r} is damaged: its checksum is not the one in {SETTINGS}")
    return integer_model(adapted.module.to(device), adapted, backend)


def _check_methods(adapted: AdaptedModel, settings: Mapping[str, Any]) -> None:
    owners = {owner for info in adapted.attention for owner in parts_of(adapted, info).claims.values()}
    if missing := owners - {method["name"] for method in settings["methods"]}:
        raise ValueError(f"settings must list the methods that changed the network: {', '.join(sorted(missing))}")


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """What is saved: every tensor once, under its own name."""
    unsaved = _aliases(network)
    state = network.state_dict()
    return {k: v.contiguous() for k, v in state.items() if k not in unsaved and f".{BORROWED}." not in k}


def _aliases(network: nn.Module) -> set[str]:
    """Further names of parameters that have one already: tied weights."""
    every = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    return every - {name for name, _ in network.named_parameters()}


def _kinds(adapted: AdaptedModel) -> dict[str, dict[str, Any]]:
    """Site -> what its quantizer is, beside the tensors of its grid."""
    found = {site.name: quantizer_at(adapted.module, site) for site in adapted.sites}
    return {
        name: {"bits": q.bits, "symmetric": q.symmetric, "granularity": q.granularity}
        for name, q in found.items()
        if q is not None
    }


def _read_facts(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    facts = settings.get(KEY)
    if not isinstance(facts, dict) or not isinstance(facts.get("quantizers"), dict) or "sha256" not in facts:
        raise UserError(f"{str(path)!r} describes no integer model; `qexp export` makes one")
    if facts.get("format") != FORMAT:
        raise UserError(
            f"{str(path)!r} has format {facts.get('format')}, and this qexp reads {FORMAT}: export it again"
        )
    return facts


def _fresh(folder: Path | str) -> AdaptedModel:
    """A network of the folder's configuration; its weights are overwritten later."""
    import transformers

    checkpoint = Checkpoint(str(folder))
    read_config(checkpoint)
    with quiet(), seeded(0):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        name = next(iter(config.architectures or ()), None)
        network_class: Any = getattr(transformers, str(name), None)
        if getattr(network_class, "config_class", None) is not type(config):
            raise UserError(f"{str(folder)!r} names {name!r}, which is no network of {config.model_type}")
        return adapt(finish(network_class._from_config(config), config.model_type))


def _place_quantizers(adapted: AdaptedModel, kinds: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    for name, kind in kinds.items():
        if name not in adapted.sites:
            raise UserError(f"{str(path)!r} has a grid for {name!r}, and its network has no such site")
        site, quantizer = adapted.sites[name], Quantizer(kind["bits"], kind["symmetric"], None, kind["granularity"])
        quantizer.mode = "quantize"
        if site.kind == "weight":
            target: Any = adapted.module.get_submodule(site.module)
            # A parameter of its own: a tied head keeps the float weight.
            target.register_parameter("weight", nn.Parameter(target.weight.detach().clone(), requires_grad=False))
            target.add_module(WEIGHT, quantizer)
        else:
            attach(adapted.module, site, quantizer)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{str(path)!r} cannot be read: {first_line(error)}") from error


def _fill(adapted: AdaptedModel, tensors: dict[str, Tensor], path: Path) -> None:
    """Give the network its floats, the quantizers their grids, and quantized weights what their codes stand for."""
    for site in adapted.sites:
        quantizer = quantizer_at(adapted.module, site)
        if quantizer is not None and quantizer.granularity != "per_token":
            p = _grid(tensors, site, quantizer.bits, path)
            name = f"{site.module}.weight"
            if site.kind == "weight" and name in tensors and tensors[name].dtype == torch.int8:
                is_conv1d = isinstance(adapted.module.get_submodule(site.module), Conv1D)
                codes = tensors[name].t() if is_conv1d else tensors[name]
                tensors[name] = weight_values(codes, p)
    try:
        outcome = adapted.module.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise UserError(f"{str(path)!r} does not fit its network: {first_line(error)}") from error
    missing = sorted(set(outcome.missing_keys) - _aliases(adapted.module))
    if missing or outcome.unexpected_keys:
        what = f"lacks {missing[0]}" if missing else f"has {outcome.unexpected_keys[0]}, which its network has not"
        raise UserError(f"{str(path)!r} {what}: export the model again")


def _grid(tensors: Mapping[str, Tensor], site: Site, bits: int, path: Path) -> QParams:
    try:
        scale, zero_point, qmin = (
            tensors[f"{quantizer_name(site)}.{part}"] for part in ("scale", "zero_point", "qmin")
        )
    except KeyError as error:
        raise UserError(f"{str(path)!r} lacks {error} of site {site.name}: export the model again") from error
    return QParams(scale, zero_point, int(qmin), int(qmin) + 2**bits - 1)


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
