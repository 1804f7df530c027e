"""The integer model of a finished run as a folder, made from its kept network and calibrated again as it was."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from qexp.conf.errors import UserError
from qexp.conf.schema import ExperimentConfig, MethodChoice, QuantConfig
from qexp.models.sources import INTEGER_WEIGHTS
from qexp.results.schema import Record
from qexp.results.store import Store
from qexp.runner.checking import check_executable
from qexp.runner.compose import compose
from qexp.runner.identity import cell_id
from qexp.runner.rerun import config_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qexp.models.integer import IntegerModel
    from qexp.models.sites import AdaptedModel
    from qexp.runner.progress import ProgressReporter


@dataclass(frozen=True)
class Exported:
    """What :func:`export_integer` wrote. Sizes in bytes: the folder's weights, and the same network in float32."""

    folder: Path
    bits: str
    size: int
    float32_size: int


def finished_run(words: Sequence[str], results_dir: str) -> ExperimentConfig:
    """The configuration of a finished run, named by the beginning of its id or by its overrides.

    Raises:
        UserError: if there is no such run, or it did not finish.
    """
    if len(words) == 1 and "=" not in words[0]:
        record = Store(Path(results_dir)).find(words[0])
        config = replace(config_of(record.config), results_dir=results_dir)
    else:
        config = compose(words)
        found = Store(Path(config.results_dir)).load(cell_id(config), config.table)
        if found is None:
            raise UserError(f"there is no record of this configuration in {config.results_dir}: `qexp run` it first")
        record = found
    _check_finished(record)
    return replace(config, data_dir=config.data_dir or os.environ.get("QEXP_DATA_DIR"))


def _check_finished(record: Record) -> None:
    if record.status != "finished":
        raise UserError(f"the run {record.cell_id[:8]} is {record.status}, and only a finished one has a model")


def choose_bits(cfg: ExperimentConfig, wanted: str | None) -> str:
    """The one setting to export. Raises ``UserError`` where it is open, none of the run's, or has no integer form."""
    listed = cfg.quant.bits
    if not listed:
        raise UserError(f"this run was float only (quant={cfg.quant.name}): there is no integer model to export")
    if wanted is None and len(listed) > 1:
        raise UserError(f"this run has {len(listed)} settings; choose one with --bits {' | '.join(listed)}")
    if wanted not in (None, *listed):
        raise UserError(f"--bits {wanted} is no setting of this run; there are: {', '.join(listed)}")
    bits = wanted or listed[0]
    check_executable(replace(cfg.quant, bits=(bits,)))
    return bits


def check_target(folder: Path, force: bool) -> None:
    """Raise ``UserError`` if ``folder`` is in the way. ``force`` replaces an earlier export, and nothing else."""
    if not folder.exists():
        return
    if not force:
        raise UserError(f"{folder} exists; choose another folder with --to, or replace it with --force")
    if not (folder / INTEGER_WEIGHTS).is_file():
        raise UserError(f"{folder} holds no exported model, so --force does not replace it; choose another folder")


def export_integer(cfg: ExperimentConfig, bits: str, folder: Path, progress: ProgressReporter) -> Exported:
    """Write the integer model of ``bits`` to ``folder``, all of it or nothing; an older export gives way.

    Raises:
        UserError: if the trained network was not kept. IntegerError: if a product cannot run in integers.
    """
    from qexp.models.integer import integer_model
    from qexp.models.integer_saving import save_integer
    from qexp.runner.bench import Bench
    from qexp.runner.devices import prepare_process, require_backend, resolve_device
    from qexp.runner.evaluation import quantized_network
    from qexp.runner.preparation import prepare_task, pretrain
    from qexp.runner.tracking import NullTracker
    from qexp.runner.trained import obtain, own_settings

    _check_kept(cfg)
    device = resolve_device(cfg.device)
    prepare_process(cfg.seed, cfg.threads)
    require_backend(cfg.kernels.int8, device, progress.message)
    if cfg.pretraining is not None:
        pretrain(cfg, device, progress)
    task, tokenizer = prepare_task(cfg, progress)
    trained = obtain(cfg, task, tokenizer, device, progress, NullTracker())
    quantized = quantized_network(Bench(cfg, trained, task, device, progress), bits)
    integer = integer_model(quantized, trained.model, backend=cfg.kernels.int8)
    save_integer(integer, folder, own_settings(cfg, trained.facts), tokenizer)
    float32_size = sum(4 * parameter.numel() for parameter in trained.model.module.parameters())
    return Exported(folder, bits, (folder / INTEGER_WEIGHTS).stat().st_size, float32_size)


def load_exported(folder: Path | str, backend: str = "auto") -> IntegerModel:
    """The integer model that ``qexp export`` wrote, with its methods in place, ready to run.

    Raises:
        UserError: for a folder that is damaged, incomplete, or no exported model.
    """
    from qexp.methods.base import Context
    from qexp.models.integer_saving import load_integer
    from qexp.models.saving import read_settings
    from qexp.runner.trained import as_evaluated, create_methods

    settings = read_settings(folder)

    def apply(model: AdaptedModel, methods: list[dict[str, Any]]) -> None:
        chosen = create_methods([MethodChoice(**method) for method in methods])
        quant = TypeAdapter(QuantConfig).validate_python(settings.get("quant", {"name": "none", "bits": []}))
        as_evaluated(model, chosen, Context(settings["max_length"], settings["pretrained"], quant))
        for method in chosen:
            method.strip(model)

    return load_integer(folder, apply, backend)


def _check_kept(cfg: ExperimentConfig) -> None:
    from qexp.runner.identity import home_of

    home = home_of(cfg)
    if cfg.train.max_steps and not home.is_dir():
        raise UserError(
            f"the trained network of this run was not kept ({home} is not there): delete its record and run it again "
            "with train.keep_model=true"
        )
