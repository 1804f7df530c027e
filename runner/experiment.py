"""One experiment, from configuration to record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexp.conf.schema import ExperimentConfig
from qexp.results import outcomes
from qexp.results.schema import INTEGER, OWN, PTQ, Metric, Record
from qexp.results.store import Store
from qexp.runner.compose import to_dict
from qexp.runner.disk import full_disk_explained
from qexp.runner.identity import cell_id
from qexp.runner.provenance import collect
from qexp.runner.stopwatch import Stopwatch
from qexp.runner.wandb_account import by_wandb_agent

if TYPE_CHECKING:
    import torch

    from qexp.runner.bench import Bench
    from qexp.runner.evaluation import Evaluated
    from qexp.runner.progress import ProgressReporter
    from qexp.runner.tracking import Tracker


@dataclass
class Findings:
    """What has been found so far; a record can be made of it at any time."""

    metrics: dict[str, dict[str, Metric]] = field(default_factory=dict)
    outcomes: dict[str, outcomes.Sets] = field(default_factory=dict)
    outliers: dict[str, Any] = field(default_factory=dict)
    integer: dict[str, Any] = field(default_factory=dict)
    analysis: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    data_fingerprint: str = ""
    ood_fingerprints: dict[str, str] = field(default_factory=dict)

    def keep(self, setting: str, found: Evaluated) -> None:
        """The figures of one setting, and what every example contributed to them."""
        self.metrics[setting], self.outcomes[setting] = found.metrics, found.outcomes

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
    findings, status, message, files = Findings(), "finished", "", store.files(cfg.table, cell)
    from qexp.runner.training import Diverged

    with Stopwatch() as watch, full_disk_explained(cfg.results_dir):
        try:
            _measure(cfg, files, findings, tracker, progress)
        except Diverged as error:
            status, message = "diverged", str(error)
            findings.training |= {"steps": error.step, "scales": error.scales}
    _draw_scales(cfg, files, findings)
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
        artifacts=findings.artifacts | outcomes.write(files, findings.outcomes),
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
    cfg: ExperimentConfig, folder: Path, findings: Findings, tracker: Tracker, progress: ProgressReporter
) -> None:
    """Everything from data to figures into ``findings``; pictures into ``folder``."""
    from qexp.runner.devices import backend_in_use, prepare_process, resolve_device

    device = resolve_device(cfg.device)
    prepare_process(cfg.seed, cfg.threads)
    with backend_in_use(cfg, device, progress.message):
        bench = _prepared(cfg, device, findings, tracker, progress)
        _float_figures(bench, findings)
        if cfg.eval.outliers:
            _analyses(bench, folder, findings)
        for bits in cfg.quant.bits:
            _setting(bench, bits, findings)


def _prepared(
    cfg: ExperimentConfig, device: torch.device, findings: Findings, tracker: Tracker, progress: ProgressReporter
) -> Bench:
    """The trained network with its task."""
    from qexp.runner.bench import Bench
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
    return Bench(cfg, trained, task, device, progress)


def _float_figures(bench: Bench, findings: Findings) -> None:
    """The trained network as it is, in the format of its training, and in its method's own arithmetic."""
    from qexp.runner import evaluation

    with findings.timed("evaluate.float"):
        found = evaluation.evaluate_network(bench, "evaluating float", bench.network)
    findings.keep("float", found)
    if (precision := bench.cfg.train.precision) != "fp32":
        with findings.timed(f"evaluate.{precision}"):
            findings.keep(precision, evaluation.low_precision(bench))
    with findings.timed(f"evaluate.{OWN}"):
        own = evaluation.own_arithmetic(bench)
    if own is not None:
        figures, certificate = own
        findings.keep(OWN + INTEGER if certificate["products"] else OWN, figures)
        findings.integer[OWN] = {"certificate": certificate}


def _analyses(bench: Bench, folder: Path, findings: Findings) -> None:
    from qexp.runner import analyses

    with findings.timed("outliers"):
        findings.outliers, maps = analyses.outliers(bench, folder)
    with findings.timed("analyse"):
        findings.analysis, pictures = analyses.analysis(bench, folder)
    findings.artifacts |= {what: f"{folder.name}/{name}" for what, name in (maps | pictures).items()}


def _draw_scales(cfg: ExperimentConfig, folder: Path, findings: Findings) -> None:
    """The picture of scales over the steps of training, where they were measured; of a diverged one too."""
    if cfg.eval.heatmaps and (scales := findings.training.get("scales")):
        from qexp.models.tensor_scales import casting_noise
        from qexp.results.pictures import draw

        title = f"{'+'.join(choice.name for choice in cfg.method)}, {cfg.model.name} on {cfg.task.name}"
        drawn = draw({"scales": scales | {"casting": casting_noise()}}, folder, title)
        findings.artifacts |= {what: f"{folder.name}/{name}" for what, name in drawn.items()}


def _setting(bench: Bench, bits: str, findings: Findings) -> None:
    """One quantizer setting, simulated and, where asked for, executed in integers."""
    from qexp.runner import evaluation

    with findings.timed(f"evaluate.{bits}"):
        quantized = evaluation.quantized_network(bench, bits)
        simulated = evaluation.evaluate_network(bench, f"evaluating {bits}", quantized)
    findings.keep(bits, simulated)
    if evaluation.converter(bench.methods).shows_ptq:
        with findings.timed(f"evaluate.{bits}{PTQ}"):
            plain = evaluation.quantized_network(bench, bits, plain=True)
            findings.keep(bits + PTQ, evaluation.evaluate_network(bench, f"evaluating {bits} PTQ", plain))
    if bench.cfg.eval.integer:
        from qexp.runner.integer import evaluate_integer

        with findings.timed(f"evaluate.{bits}.integer"):
            executed, proof = evaluate_integer(bench, bits, quantized, simulated.metrics)
        findings.keep(bits + INTEGER, executed)
        findings.integer[bits] = proof
