"""Where an experiment computes: device, threads and seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qexp.conf.errors import UserError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> torch.device:
    """``auto`` (a CUDA device where torch sees one), ``cpu``, ``cuda`` or ``cuda:<index>``.

    Raises:
        UserError: for any other name, and for a CUDA device that is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and not name.startswith("cuda"):
        raise UserError(f"device={name}: unknown device; use auto, cpu, cuda or cuda:<index>")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name}: unknown device; use auto, cpu, cuda or cuda:<index>") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}: torch sees {torch.cuda.device_count()} CUDA devices here; use device=auto")
    return device


def prepare_process(seed: int, threads: int | None) -> None:
    """Seed Python, NumPy and torch, and set torch's CPU threads where a number is given."""
    import torch
    from transformers import set_seed

    if threads is not None:
        torch.set_num_threads(threads)
    set_seed(seed)
