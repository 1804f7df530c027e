"""Which keys of a configuration may change a figure, and which only a trained network: what identities are made of."""

from __future__ import annotations

from typing import Any

VOLATILE_KEYS = ("tracking", "kernels", "results_dir", "table", "data_dir", "threads", "device")
"""Top-level keys that cannot change a figure by intent and so are no part of the cell id."""

VOLATILE_SUBKEYS = {"train": ("save_steps", "logging_steps", "keep_model")}
"""Keys inside groups that cannot change a figure either."""

SETTLED_KEYS = ("ood", "pretraining")
"""Top-level keys that follow from others and that nobody sets."""

LATER_SUBKEYS: dict[str, dict[str, Any]] = {
    "model": {"plant_outliers": None, "pretrain": None, "patch_layer_norm": False},
    "task": {"ood": (), "overlap": 0, "pixels": None, "augment": None},
    "eval": {"integer": False, "ood": False},
    "quant": {"weight_step_ratio": 1.0},
    "train": {
        "precision": "fp32",
        "fp8_formats": "paper",
        "rounding": None,
        "loss_scale": None,
        "schedule_options": {},
        "devices": 1,
        "scales_every": None,
    },
}
"""Keys that came after the first records, each with the value that holds for those: at it, no part of the cell id."""

LATER_PRETRAIN_KEYS: dict[str, Any] = {"settings": {}}
"""The same of ``model.pretrain``, where there is one."""

EVALUATION_KEYS = ("quant", "eval", "ood")
"""Top-level keys that act only after training: configurations that differ only here share one trained model."""

EVALUATION_SUBKEYS = {"task": ("eval_split", "eval_examples", "ood")}
"""Keys inside groups that act only after training."""

QUANT_EVALUATION_SUBKEYS = ("bits", "weight_step_ratio")
"""Keys of ``quant`` that act only after training even where a method trains with quantizers."""
