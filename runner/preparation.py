"""What a run needs before it can train: its data in the network's tokens, and a network to start from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexp.conf.schema import ExperimentConfig, ModelConfig
from qexp.models.images import load_pixel_format
from qexp.models.loading import load_tokenizer
from qexp.runner.devices import prepare_process
from qexp.runner.identity import training_id
from qexp.runner.pretraining import pretraining_run
from qexp.runner.tasks import Corpus, ImageCorpus, build_further, build_task, load_corpus, load_images
from qexp.runner.tracking import NullTracker
from qexp.runner.trained import obtain, origin

if TYPE_CHECKING:
    import torch

    from qexp.runner.progress import ProgressReporter
    from qexp.runner.tasks import Task


def pretrain(cfg: ExperimentConfig, device: torch.device, progress: ProgressReporter) -> dict[str, Any]:
    """Train the network that ``cfg.model.pretrain`` asks for, unless a run did before; what a record says of it.

    Raises ``Diverged`` and ``KeyboardInterrupt`` as training does; stopped, it goes on from its last checkpoint.
    """
    earlier = pretraining_run(cfg)
    task, tokenizer = prepare_task(earlier, progress)
    facts = obtain(earlier, task, tokenizer, device, progress, NullTracker()).facts
    prepare_process(cfg.seed, cfg.threads)  # random numbers of the run do not depend on who trained the network
    kept = {key: facts[key] for key in ("steps", "final_loss")}
    scales = {"scales": facts["scales"]} if facts.get("scales") else {}
    return {"training_id": training_id(earlier), "data_fingerprint": task.fingerprint, **kept, **scales}


def prepare_task(cfg: ExperimentConfig, progress: ProgressReporter) -> tuple[Task, Any]:
    """The task of ``cfg`` with its data, and the tokenizer, of images the pixel format."""
    objective, cache = cfg.task.objective, Path(cfg.results_dir) / "cache"
    assert objective != "auto", "composing settles the objective"
    progress.start("preparing data", None)
    try:
        corpus, processor = load_data(cfg, origin(cfg))
        length = cfg.task.max_length
        return build_task(cfg.task, corpus, processor, objective, length, cfg.seed, cache), processor
    finally:
        progress.finish()


def load_data(cfg: ExperimentConfig, model: ModelConfig) -> tuple[Corpus | ImageCorpus, Any]:
    """What the task is made of, and what makes inputs for ``model`` of it: its tokenizer, or its pixel format."""
    if cfg.task.pixels is not None:
        return load_images(cfg.task, cfg.data_dir), load_pixel_format(model, cfg.task.pixels)
    corpus = load_corpus(cfg.task, cfg.data_dir)
    return corpus, load_tokenizer(model, corpus.texts(), cfg.data_dir, Path(cfg.results_dir) / "cache")


def prepare_ood(cfg: ExperimentConfig, tokenizer: Any, progress: ProgressReporter) -> tuple[Task, ...]:
    """The tasks of ``cfg.ood``, for the network's own tokenizer. Raises ``UserError`` where one has no data here."""
    if not cfg.ood:
        return ()
    progress.start("preparing further data", None)
    try:
        cache = Path(cfg.results_dir) / "cache"
        return tuple(build_further(other, cfg.data_dir, tokenizer, cfg.seed, cache) for other in cfg.ood)
    finally:
        progress.finish()
