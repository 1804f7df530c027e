"""One experiment, from configuration to record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from qexp.conf.schema import ExperimentConfig
from qexp.results.schema import INTEGER, OWN, PTQ, Metric, Record
from qexp.results.store import Store
from qexp.runner.compose import to_dict
from qexp.runner.disk import full_disk_explained
from qexp.runner.identity import cell_id
from qexp.runner.provenance import collect
from qexp.runner.stopwatch import Stopwatch
from qexp.runner.tracking import by_wandb_agent

if TYPE_CHECKING:
    import torch

    from qexp.runner.progress import ProgressReporter
    from qexp.runner.tasks import Task
    from qexp.runner.tracking import Tracker
    from qexp.runner.trained import Trained


@dataclass
class Findings:
    """What has been found so far; a record can be made of it at any time."""

    metrics: dict[str, dict[str, Metric]] = field(default_factory=dict)
    outliers: dict[str, Any] = field(default_factory=dict)
    integer: dict[str, Any] = field(default_factory=dict)
    analysis: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    data_fingerprint: str = ""
    ood_fingerprints: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the block's wall seconds to ``timings[phase]``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[phase] = round(self.timings.get(phase, 0.0) + time.perf_counter() - start, 3)


def run_experiment(cfg: ExperimentConfig, store: Store, tracker: Tracker, progress: ProgressReporter) -> Record:
    """Run ``cfg`` and return its record, which is saved before anything else happens to it.

    A cell that has a record already is not run again. A loss that diverges gives a record with status ``diverged``.

    Raises:
        UserError: for input that cannot be run. RunError: for a full disk. KeyboardInterrupt: when stopped; the same
        call goes on from the last checkpoint.
    """
    cell = cell_id(cfg)
    if (known := store.load(cell, cfg.table)) is not None:
        if by_wandb_agent():
            tracker.summary(known)
        return _filed(known, cfg.table, store)
    store.check_writable()
    findings, status, message = Findings(), "finished", ""
    from qexp.runner.training import Diverged

    with Stopwatch() as watch, full_disk_explained(cfg.results_dir):
        try:
            _measure(cfg, cell, store, findings, tracker, progress)
        except Diverged as error:
            status, message = "diverged", str(error)
            findings.training["steps"] = error.step
    record = Record(
        cell_id=cell,
        status=status,  # type: ignore[arg-type]
        config=to_dict(cfg),
        provenance=collect(cfg, findings.data_fingerprint, findings.ood_fingerprints)
        | watch.facts()
        | _kept(cfg)
        | _link(tracker),
        metrics=findings.metrics,
        outliers=findings.outliers,
        integer=findings.integer,
        analysis=findings.analysis,
        timings=findings.timings,
        training=findings.training,
        artifacts=findings.artifacts,
        message=message,
    )
    store.save(record)
    tracker.summary(record)
    return record


def _kept(cfg: ExperimentConfig) -> dict[str, int]:
    """Bytes of the trained network that stays on the disk, where there is one."""
    from qexp.runner.identity import home_of

    size = sum(path.stat().st_size for path in home_of(cfg).rglob("*") if path.is_file())
    return {"disk_bytes": size} if size else {}


def _link(tracker: Tracker) -> dict[str, str]:
    """Where the run can be seen, as provenance; nothing for one that is not tracked online."""
    address = tracker.address()
    return {"wandb": address} if address else {}


def _filed(record: Record, table: str, store: Store) -> Record:
    """The record under the asked table: a copy, where it was found under another one."""
    if record.config["table"] == table:
        return record
    found_in = record.config["table"]
    artifacts = {what: f"../{found_in}/{name}" for what, name in record.artifacts.items()}
    copy = replace(record, config={**record.config, "table": table}, artifacts=artifacts)
    store.save(copy)
    return copy


def _measure(
    cfg: ExperimentConfig, cell: str, store: Store, findings: Findings, tracker: Tracker, progress: ProgressReporter
) -> None:
    from qexp.runner.devices import backend_in_use, prepare_process, resolve_device

    device = resolve_device(cfg.device)
    prepare_process(cfg.seed, cfg.threads)
    with backend_in_use(cfg, device, progress.message):
        _measure_on(device, cfg, cell, store, findings, tracker, progress)


def _measure_on(
    device: torch.device,
    cfg: ExperimentConfig,
    cell: str,
    store: Store,
    findings: Findings,
    tracker: Tracker,
    progress: ProgressReporter,
) -> None:
    from qexp.runner import evaluation
    from qexp.runner.preparation import prepare_ood, prepare_task, pretrain
    from qexp.runner.trained import obtain

    if cfg.pretraining is not None:
        with findings.timed("pretrain"):
            findings.training["pretraining"] = pretrain(cfg, device, progress)
    with findings.timed("prepare"):
        task, tokenizer = prepare_task(cfg, progress)
        task.ood = prepare_ood(cfg, tokenizer, progress)
    findings.data_fingerprint = task.fingerprint
    findings.ood_fingerprints = {other.name: other.fingerprint for other in task.ood}
    with findings.timed("train"):
        trained = obtain(cfg, task, tokenizer, device, progress, tracker)
    findings.training |= trained.facts
    with findings.timed("evaluate.float"):
        network = trained.model.module
        findings.metrics["float"] = evaluation.evaluate_network(
            "evaluating float", cfg.eval, network, task, device, progress
        )
    if (precision := cfg.train.precision) != "fp32":
        with findings.timed(f"evaluate.{precision}"):
            findings.metrics[precision] = evaluation.low_precision(cfg, trained, task, device, progress)
    _own_arithmetic(cfg, findings, trained, task, device, progress)
    if cfg.eval.outliers:
        with findings.timed("outliers"):
            _outliers(cfg, cell, store, findings, trained, task, progress)
        with findings.timed("analyse"):
            _analyse(cfg, cell, store, findings, trained, task, progress)
    for bits in cfg.quant.bits:
        _setting(cfg, bits, findings, trained, task, device, progress)


def _own_arithmetic(
    cfg: ExperimentConfig,
    findings: Findings,
    trained: Trained,
    task: Task,
    device: torch.device,
    progress: ProgressReporter,
) -> None:
    """The network in the arithmetic of a method that has one: with a certificate of integer products, executed."""
    from qexp.runner import evaluation

    with findings.timed(f"evaluate.{OWN}"):
        found = evaluation.own_arithmetic(cfg, trained, task, device, progress)
    if found is not None:
        metrics, certificate = found
        findings.metrics[OWN + INTEGER if certificate["products"] else OWN] = metrics
        findings.integer[OWN] = {"certificate": certificate}


def _setting(
    cfg: ExperimentConfig,
    bits: str,
    findings: Findings,
    trained: Trained,
    task: Task,
    device: torch.device,
    progress: ProgressReporter,
) -> None:
    """One quantizer setting, simulated and, where asked for, executed in integers."""
    from qexp.runner import evaluation

    with findings.timed(f"evaluate.{bits}"):
        quantized = evaluation.quantized_network(cfg, bits, trained, task, device, progress)
        simulated = evaluation.evaluate_network(f"evaluating {bits}", cfg.eval, quantized, task, device, progress)
    findings.metrics[bits] = simulated
    if evaluation.converter(trained).shows_ptq:
        with findings.timed(f"evaluate.{bits}{PTQ}"):
            plain = evaluation.quantized_network(cfg, bits, trained, task, device, progress, plain=True)
            ptq = evaluation.evaluate_network(f"evaluating {bits} PTQ", cfg.eval, plain, task, device, progress)
        findings.metrics[bits + PTQ] = ptq
    if cfg.eval.integer:
        from qexp.runner.integer import evaluate_integer

        with findings.timed(f"evaluate.{bits}.integer"):
            found = evaluate_integer(cfg, bits, quantized, simulated, trained, task, device, progress)
        findings.metrics[f"{bits}.integer"], findings.integer[bits] = found


def _analyse(
    cfg: ExperimentConfig,
    cell: str,
    store: Store,
    findings: Findings,
    trained: Trained,
    task: Task,
    progress: ProgressReporter,
) -> None:
    """What the methods measure of the float network, and pictures of it."""
    from qexp.results.pictures import draw
    from qexp.runner import evaluation

    device = next(trained.model.module.parameters()).device
    findings.analysis = evaluation.analysis(cfg.eval, trained, task, device, progress)
    if cfg.eval.heatmaps and findings.analysis:
        folder = store.files(cfg.table, cell)
        names = draw(findings.analysis, folder, f"{cfg.model.name} on {cfg.task.name}")
        findings.artifacts |= {what: f"{folder.name}/{name}" for what, name in names.items()}


def _outliers(
    cfg: ExperimentConfig,
    cell: str,
    store: Store,
    findings: Findings,
    trained: Trained,
    task: Task,
    progress: ProgressReporter,
) -> None:
    from qexp.runner import evaluation

    device = next(trained.model.module.parameters()).device
    found = evaluation.outliers(cfg.eval, trained, task, device, progress)
    if cfg.eval.heatmaps:
        folder = store.files(cfg.table, cell)
        names = evaluation.write_heatmaps(found, folder, f"{cfg.model.name} on {cfg.task.name}")
        findings.artifacts |= {what: f"{folder.name}/{name}" for what, name in names.items()}
    for statistics in found["sites"].values():
        statistics.pop("per_dim_max", None)
    findings.outliers = found
