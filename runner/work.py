"""What decides the cost of an experiment, read from its configuration: the network, and how much it computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qexp.conf.schema import ExperimentConfig

BYTES_A_WEIGHT = 4
_GROUPS = ("model", "task", "train", "quant", "eval")
_OTHER = math.log(3)
"""Distance of a method, task or network of another kind: like three times the work."""


@dataclass(frozen=True)
class Work:
    """Training and evaluation of one network. Two of these are near where one's cost tells the other's."""

    model: str
    family: str
    weights: int | None
    """How many, for a network from scratch whose dimensions say it; None where only its files would."""
    methods: tuple[str, ...]
    precision: str
    on_gpu: bool
    batch_tokens: int
    """Tokens of one optimizer step."""
    steps: int
    devices: int
    task: str
    examples: int | None
    """Evaluated examples or windows; None for all that there are."""
    length: int
    settings: int
    """How many networks are evaluated: the float one and every quantizer setting, on every text."""
    integer: bool

    @classmethod
    def of(cls, config: ExperimentConfig | Mapping[str, Any], on_gpu: bool) -> Work:
        """Read a configuration, or what a record keeps of one (keys that came after the record are absent)."""
        whole: Mapping[str, Any] = config if isinstance(config, Mapping) else vars(config)
        model, task, train, quant, evaluation = (_plain(whole[group]) for group in _GROUPS)
        return cls(
            model=f"{model['name']} {model['path']}",
            family=model["family"],
            weights=count_weights(model),
            methods=tuple(sorted(_plain(choice)["name"] for choice in whole["method"])),
            precision=train.get("precision", "fp32"),
            on_gpu=on_gpu,
            batch_tokens=train["batch_size"] * train["gradient_accumulation"] * task["max_length"],
            steps=train["max_steps"],
            devices=train.get("devices", 1),
            task=task["name"],
            examples=task["eval_examples"],
            length=task["max_length"],
            settings=(1 + len(quant["bits"])) * (1 + len(whole.get("ood", ()))),
            integer=evaluation.get("integer", False),
        )

    @property
    def bytes(self) -> int | None:
        """Of the saved weights."""
        return self.weights and self.weights * BYTES_A_WEIGHT

    def same_network(self, other: Work) -> float | None:
        """How many times as large this network is; None where that is not known or they are of unlike kinds."""
        if (self.on_gpu, self.precision) != (other.on_gpu, other.precision):
            return None
        if self.weights and other.weights and self.family == other.family:
            return self.weights / other.weights
        return 1.0 if self.model == other.model and self.weights == other.weights else None

    def training_ratio(self, other: Work) -> float | None:
        """How many times as long this network trains."""
        size = self.same_network(other)
        if size is None or self.devices != other.devices or not (self.steps and other.steps):
            return None
        return size * self.steps * self.batch_tokens / (other.steps * other.batch_tokens)

    def evaluation_ratio(self, other: Work) -> float | None:
        """How many times as long preparing and evaluating takes."""
        size = self.same_network(other)
        if size is None or self.integer != other.integer:
            return None
        if self.examples and other.examples:
            size *= self.examples * self.length / (other.examples * other.length)
        elif (self.task, self.examples) != (other.task, other.examples):
            return None
        return size * self.settings / other.settings

    def distance(self, other: Work, ratio: float) -> float:
        """How far apart the two are, 0 for alike: the logarithm of the ratio, and more for what is of another kind."""
        unlike = (self.methods != other.methods) + (self.model != other.model) + (self.task != other.task)
        return abs(math.log(ratio)) + _OTHER * unlike


def has_gpu(device: str) -> bool:
    """Whether a run with ``device=...`` would be on a GPU here, without asking torch."""
    return device.startswith("cuda") or (device == "auto" and Path("/dev/nvidiactl").exists())


def count_weights(model: Mapping[str, Any]) -> int | None:
    """Weights of a transformer from scratch by its dimensions, to a few per cent: enough to scale a time by.

    ``V h + P h + L (4 h^2 + m h f)`` with hidden size h, FFN size f, L layers, V tokens, P positions; m is 3 where the
    FFN is gated. None for a network whose files say how large it is.
    """
    given = model["dimensions"]
    if model["source"] != "scratch" or model.get("pretrain") or not given:
        return None
    hidden, layers = _first(given, "hidden_size", "n_embd"), _first(given, "num_hidden_layers", "n_layer")
    if not hidden or not layers:
        return None
    inner = _first(given, "intermediate_size", "ffn_dim", "n_inner") or 4 * hidden
    positions = _first(given, "max_position_embeddings", "n_positions")
    products = 3 if model["family"] == "llama" else 2
    return int((model["vocab_size"] + positions) * hidden + layers * (4 * hidden**2 + products * hidden * inner))


def _first(given: Mapping[str, Any], *names: str) -> int:
    return next((given[name] for name in names if given.get(name)), 0)


def _plain(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else vars(value)
