"""``qexp run``'s training against Hugging Face's Trainer alone: same model, data, optimizer and steps, by turns.

Run with: python benchmarks/training_loop.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from measure import Report, by_turns, ratio, seconds

CELL = ["method=vanilla", "model=tiny_bert", "task=pydocs", "scale=small", "tracking=none", "threads=1"]
STEPS = 40


def measure(turns: int = 7, steps: int = STEPS) -> Report:
    import torch

    from qexp.models.adapt import adapt
    from qexp.models.loading import load_model
    from qexp.runner.compose import compose
    from qexp.runner.preparation import prepare_task
    from qexp.runner.progress import SilentProgress
    from qexp.runner.tracking import NullTracker
    from qexp.runner.trained import create_methods
    from qexp.runner.training import train

    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"train.max_steps={steps}", "train.logging_steps=10", f"results_dir={folder}"]
        cfg = compose([*CELL, *overrides])
        torch.set_num_threads(cfg.threads or 1)
        task, tokenizer = prepare_task(cfg, SilentProgress())

        def network() -> torch.nn.Module:
            return load_model(cfg.model, task.objective, task.num_labels, tokenizer, cfg.task.max_length, cfg.seed)

        def ours() -> float:
            model, methods = adapt(network()), create_methods(cfg.method)
            with tempfile.TemporaryDirectory() as checkpoints:
                place = Path(checkpoints), torch.device("cpu"), SilentProgress(), NullTracker()
                return seconds(lambda: train(cfg, model, methods, task, *place))

        def theirs() -> float:
            model = network()
            with tempfile.TemporaryDirectory() as checkpoints:
                return seconds(lambda: bare_trainer(cfg, model, task, checkpoints))

        figures = by_turns({"qexp": ours, "trainer": theirs}, turns)
    return Report(
        [ratio(f"training loop, {steps} steps", figures["qexp"], figures["trainer"], "bare HF `Trainer`", 1.05)]
    )


def bare_trainer(cfg, model, task, folder: str) -> None:
    """The script a user would write without qexp."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    recipe = cfg.train
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=recipe.max_steps,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        adam_beta1=recipe.betas[0],
        adam_beta2=recipe.betas[1],
        adam_epsilon=recipe.epsilon,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_steps,
        max_grad_norm=recipe.max_grad_norm,
        logging_steps=recipe.logging_steps,
        save_steps=recipe.save_steps,
        seed=cfg.seed,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=task.train(), data_collator=task.collator)
    trainer.remove_callback(PrinterCallback)
    trainer.train()


if __name__ == "__main__":
    print(*measure().results, sep="\n")
