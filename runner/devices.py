"""Where and with what an experiment computes: device, threads, seeds, and the back end of integer products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig
from qexp.methods.registry import in_integers

if TYPE_CHECKING:
    import torch

BUILDING = "building qexp's native kernels (once; about half a minute)"


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


def require_devices(cfg: ExperimentConfig) -> None:
    """Raise ``UserError`` where ``train.devices`` are more than there are."""
    import torch

    wanted, there = cfg.train.devices, torch.cuda.device_count()
    if cfg.device != "cpu" and wanted > there:
        raise UserError(
            f"train.devices={wanted}: torch sees {there} CUDA devices here; with device=cpu, {wanted} processes share "
            "the CPU"
        )


def prepare_process(seed: int, threads: int | None) -> None:
    """Seed Python, NumPy and torch, and set torch's CPU threads where a number is given."""
    import torch
    from transformers import set_seed

    if threads is not None:
        torch.set_num_threads(threads)
    set_seed(seed)


def random_state() -> list[torch.Tensor]:
    """What :func:`set_random_state` puts back: the state of torch's generators on the CPU and every CUDA device."""
    import torch

    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())]


def set_random_state(state: list[torch.Tensor]) -> None:
    """Inverse of :func:`random_state`."""
    import torch

    torch.set_rng_state(state[0])
    if state[1:]:
        torch.cuda.set_rng_state_all(state[1:])


def require_backend(name: str, device: torch.device, say: Callable[[str], None]) -> None:
    """Settle the back end ``kernels.int8=name`` before anything is trained; native kernels are built now if need be.

    Raises:
        UserError: if it cannot be used here.
    """
    from qexp.kernels.int8 import backends

    if device.type == "cpu" and (missing := build_native(say)) is not None:
        say(f"going on without qexp's native kernels: {missing}")
    try:
        backends.select(name, device.type)
    except ValueError as error:
        raise UserError(f"kernels.int8={name}: {error}") from error


@contextmanager
def backend_in_use(cfg: ExperimentConfig, device: torch.device, say: Callable[[str], None]) -> Iterator[None]:
    """``kernels.int8`` as the back end of every integer product meanwhile, settled before anything is trained.

    An experiment without any leaves all as it is; only FP8's casts are made in one pass by the native kernels. Raises
    ``UserError`` as :func:`require_backend` does.
    """
    if cfg.train.precision == "fp8" and device.type == "cpu":
        build_native(say)
    if not (cfg.eval.integer or cfg.kernels.int8 != "auto" or in_integers(cfg.method)):
        yield
        return
    require_backend(cfg.kernels.int8, device, say)
    from qexp.kernels.int8 import use

    with use(cfg.kernels.int8):
        yield


def build_native(say: Callable[[str], None]) -> str | None:
    """Build or load the native library, saying so where it takes a while. Why it is not there, or None."""
    from qexp.kernels import native

    if native.needs_build():
        say(BUILDING)
    return native.unavailable()
