"""The trained network of a configuration: taken from the store of trained models, or trained and put there.

Configurations that differ only in what happens after training share one trained network, by ``training_id``.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexp.conf.errors import RunError, UserError
from qexp.conf.schema import ExperimentConfig, MethodChoice, ModelConfig
from qexp.methods import registry
from qexp.methods.base import BaseMethod, Context, Surgery
from qexp.models.adapt import adapt
from qexp.models.images import PixelFormat
from qexp.models.loading import is_pretrained, load_model
from qexp.models.planting import plant_outliers
from qexp.models.saving import is_saved, load_saved, read_body, read_settings, save_model, with_new_head
from qexp.models.sites import AdaptedModel
from qexp.runner.batches import calibration_batches
from qexp.runner.checkpoints import discard
from qexp.runner.identity import home_of, partial_of
from qexp.runner.pretraining import pretraining_run, starting_model
from qexp.runner.training import resume_point, train

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from qexp.runner.progress import ProgressReporter
    from qexp.runner.stopping import StopRequest
    from qexp.runner.tasks import Task
    from qexp.runner.tracking import Tracker


@dataclass(frozen=True)
class Trained:
    model: AdaptedModel
    methods: tuple[BaseMethod, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    """Steps, final loss, curve, and the sites that the methods replaced: the record's ``training``."""


def origin(cfg: ExperimentConfig) -> ModelConfig:
    """The model that training starts from: ``cfg.model``, or the folder where it was pretrained."""
    return cfg.model if cfg.pretraining is None else starting_model(cfg, home_of(pretraining_run(cfg)))


def create_methods(choices: Sequence[MethodChoice]) -> tuple[BaseMethod, ...]:
    return tuple(registry.create(choice.name, choice.settings) for choice in choices)


def acting(methods: Sequence[BaseMethod]) -> tuple[BaseMethod, ...]:
    """Those that change what is trained; the others only look at the trained network, which they share with others."""
    return tuple(method for method in methods if method.acts_in_training)


def context_of(cfg: ExperimentConfig) -> Context:
    quant = replace(cfg.quant, weight_step_ratio=1.0)
    pretrained = is_pretrained(cfg.model) and own_start(cfg) is None
    return Context(cfg.task.max_length, pretrained, quant, cfg.train.max_steps, cfg.train.dropout)


def own_start(cfg: ExperimentConfig) -> Path | None:
    """The folder of the weights that training starts from, where they were trained with the run's own methods.

    None where they were not, or are drawn. Raises ``UserError`` for weights of the same methods with other settings.
    """
    wanted = registry.from_scratch_only(cfg.method)
    start = origin(cfg)
    if not wanted or start.path is None or not is_saved(start.path):
        return None
    saved = [MethodChoice(**one) for one in read_settings(start.path)["methods"]]
    if not registry.from_scratch_only(saved):
        return None
    told, found = _by_name(wanted), _by_name(saved)
    if told != found:
        raise UserError(f"{start.path} was trained with {found}, and this run has {told}: the two must be alike")
    return Path(start.path)


def _by_name(choices: Sequence[MethodChoice]) -> dict[str, dict[str, Any]]:
    """Method -> all of its settings, those that were left out too, or are younger than the weights."""
    complete = {one.name: registry.with_later_settings(one.name, one.settings) for one in choices}
    return {name: asdict(registry.validate(name, settings)) for name, settings in complete.items()}


def prepare_methods(model: AdaptedModel, methods: Sequence[BaseMethod], context: Context) -> Surgery:
    """Let each method change the network, in order.

    Raises:
        UserError: if a method that is no baseline changed nothing: its figures would be the baseline's.
    """
    replaced = []
    for method in methods:
        surgery = method.prepare(model, context)
        if not surgery.replaced and not method.changes_nothing:
            raise UserError(f"method={method.name} found nothing to change in a {model.family} model")
        replaced += list(surgery.replaced)
    return Surgery(tuple(replaced))


def as_evaluated(model: AdaptedModel, methods: Sequence[BaseMethod], context: Context) -> None:
    """Bring a network with fresh weights to the form in which ``methods`` leave a trained one."""
    prepare_methods(model, methods, context)
    for method in methods:
        method.finish(model)


def obtain(
    cfg: ExperimentConfig,
    task: Task,
    tokenizer: PreTrainedTokenizerBase | PixelFormat,
    device: torch.device,
    progress: ProgressReporter,
    tracker: Tracker,
) -> Trained:
    """The trained network for ``cfg`` on ``device``: loaded when it was trained before, else trained and kept."""
    if not cfg.train.max_steps:
        return train_network(cfg, task, tokenizer, device, None, progress, tracker)
    home = home_of(cfg)
    if home.is_dir() and (trained := _load(cfg, home, task, device, progress)) is not None:
        progress.message(f"using the network trained before: {home}")
        return trained
    resume_from = resume_point(partial_of(cfg), progress)
    if cfg.train.devices > 1:
        return _trained_in_processes(cfg, task, device, resume_from, progress, tracker)
    trained = train_network(cfg, task, tokenizer, device, resume_from, progress, tracker)
    if cfg.train.keep_model:
        keep(trained, cfg, tokenizer)
    discard(partial_of(cfg))
    return trained


def _trained_in_processes(
    cfg: ExperimentConfig,
    task: Task,
    device: torch.device,
    resume_from: Path | None,
    progress: ProgressReporter,
    tracker: Tracker,
) -> Trained:
    from qexp.runner.distributed import train_in_processes

    home = home_of(cfg)
    train_in_processes(cfg, device, resume_from, progress, tracker)
    if (trained := _load(cfg, home, task, device, progress)) is None:
        raise RunError("the network that was trained cannot be read back; the same command trains it again")
    if not cfg.train.keep_model:
        shutil.rmtree(home)
    discard(partial_of(cfg))
    return trained


def train_network(
    cfg: ExperimentConfig,
    task: Task,
    tokenizer: PreTrainedTokenizerBase | PixelFormat,
    device: torch.device,
    resume_from: Path | None,
    progress: ProgressReporter,
    tracker: Tracker,
    stop: StopRequest | None = None,
) -> Trained:
    """The network of ``cfg`` trained in this process, alone or as one of several, from a checkpoint where one is given.

    Raises ``Diverged`` and ``KeyboardInterrupt`` as training does.
    """
    model, methods, surgery = prepared_network(cfg, task, tokenizer)
    active = acting(methods)
    model.module.to(device)
    facts: dict[str, Any] = {"steps": 0, "replaced": [asdict(change) for change in surgery.replaced]}
    before = {method.name: method.begin(model) for method in active}
    if resume_from is None:
        for name, found in _calibrate(cfg, model, active, task, device, progress).items():
            before[name] |= found
    if any(before.values()):
        facts["before"] = before
    if cfg.train.max_steps:
        facts |= asdict(train(cfg, model, active, task, partial_of(cfg), resume_from, device, progress, tracker, stop))
    for method in active:
        method.finish(model)
    model.module.eval()
    return Trained(model, methods, facts)


def keep(trained: Trained, cfg: ExperimentConfig, tokenizer: PreTrainedTokenizerBase | PixelFormat) -> None:
    """Put a trained network where others of the same training find it."""
    save_model(trained.model, tokenizer, home_of(cfg), own_settings(cfg, trained.facts))


def prepared_network(
    cfg: ExperimentConfig, task: Task, tokenizer: PreTrainedTokenizerBase | PixelFormat
) -> tuple[AdaptedModel, tuple[BaseMethod, ...], Surgery]:
    """The network before its first step with the methods in place, all of the methods, and what they changed."""
    methods, own = create_methods(cfg.method), own_start(cfg)
    wanted = task.objective, task.num_labels, tokenizer, cfg.task.max_length, cfg.seed
    model = adapt(load_model(origin(cfg), *wanted) if own is None else with_new_head(own, *wanted))
    if cfg.model.plant_outliers is not None:
        plant_outliers(model, cfg.model.plant_outliers)
    surgery = prepare_methods(model, acting(methods), context_of(cfg))
    if own is not None:
        read_body(model, own)
    return model, methods, surgery


def _calibrate(
    cfg: ExperimentConfig,
    model: AdaptedModel,
    methods: Sequence[BaseMethod],
    task: Task,
    device: torch.device,
    progress: ProgressReporter,
) -> dict[str, dict[str, Any]]:
    """Method -> what it tells of its calibration."""
    told = {}
    for method in methods:
        if type(method).calibrate is not BaseMethod.calibrate:
            progress.start(f"calibrating {method.name}", None)
            try:
                batches = calibration_batches(cfg.quant.calibration, task, device)
                told[method.name] = method.calibrate(model, batches, progress.advance)
            finally:
                progress.finish()
    return told


def own_settings(cfg: ExperimentConfig, facts: dict[str, Any]) -> dict[str, Any]:
    """What a saved network keeps beside its weights, so that its methods can be put in place again."""
    methods = registry.trained_with(cfg.method)
    quant = {"quant": asdict(context_of(cfg).quant)} if registry.quantizes_training(methods) else {}
    return {
        "methods": [asdict(choice) for choice in methods],
        "max_length": cfg.task.max_length,
        "pretrained": context_of(cfg).pretrained,
        **quant,
        "training": facts,
    }


def _load(
    cfg: ExperimentConfig, home: Path, task: Task, device: torch.device, progress: ProgressReporter
) -> Trained | None:
    methods = create_methods(cfg.method)

    def apply(model: AdaptedModel, _: list[dict[str, Any]]) -> None:
        as_evaluated(model, acting(methods), context_of(cfg))

    try:
        model, settings = load_saved(home, task.objective, task.num_labels, apply)
    except UserError as error:
        aside = home.with_name(f"{home.name}.corrupt")
        shutil.rmtree(aside, ignore_errors=True)
        home.rename(aside)
        progress.message(f"set aside a trained model that cannot be read ({error}): {aside}")
        return None
    model.module.to(device).eval()
    return Trained(model, methods, settings["training"])
