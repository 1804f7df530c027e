"""Masks: BERT's shares, a pure function of (seed, epoch, block), and unmoved by a stop in mid-epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from qexp.conf.errors import UserError
from qexp.models.predicted import IGNORED
from qexp.runner.tasks.language import MaskedBlocks
from qexp.runner.tasks.masking import CALIBRATION, EVALUATION, Masker

MASKER = Masker(mask_id=4, vocab_size=1000, special_ids=(1, 2, 3, 4), probability=0.15)
words = st.lists(st.integers(0, 999), min_size=1, max_size=40).map(np.array)
streams = st.sampled_from([0, 1, 7, CALIBRATION, EVALUATION])


@given(words, st.integers(0, 2**32 - 1), streams, st.integers(0, 2**40))
def test_labels_are_the_tokens_and_only_chosen_places_change(
    ids: np.ndarray[Any, Any], seed: int, stream: int, index: int
) -> None:
    inputs, labels = MASKER.mask(ids, seed=seed, stream=stream, index=index)
    chosen = labels != IGNORED
    assert np.array_equal(labels[chosen], ids[chosen]) and np.array_equal(inputs[~chosen], ids[~chosen])
    assert not np.isin(ids[chosen], MASKER.special_ids).any()
    assert chosen.any() == (~np.isin(ids, MASKER.special_ids)).any()
    again = MASKER.mask(ids, seed=seed, stream=stream, index=index)
    assert np.array_equal(again[0], inputs) and np.array_equal(again[1], labels)


def test_shares_are_15_percent_and_80_10_10_within_four_standard_errors() -> None:
    ids = np.full(200_000, 7)
    inputs, labels = MASKER.mask(ids, seed=0, stream=0, index=0)
    chosen = labels != IGNORED
    n = int(chosen.sum())
    masked, kept = (inputs[chosen] == MASKER.mask_id).mean(), (inputs[chosen] == 7).mean()
    assert abs(n - 0.15 * len(ids)) < 4 * np.sqrt(0.15 * 0.85 * len(ids))
    assert abs(masked - 0.8001) < 4 * np.sqrt(0.8 * 0.2 / n) and abs(kept - 0.1001) < 4 * np.sqrt(0.1 * 0.9 / n)
    random = inputs[chosen & (inputs != MASKER.mask_id) & (inputs != 7)]
    assert random.min() >= 0 and random.max() < 1000 and len(np.unique(random)) > 900


def test_every_part_of_the_key_changes_the_mask() -> None:
    ids = np.full(500, 7)
    keys = [(s, e, i) for s in (0, 1) for e in (0, 1, EVALUATION, CALIBRATION) for i in (0, 1, 2)]
    masks = {MASKER.mask(ids, seed=s, stream=e, index=i)[1].tobytes() for s, e, i in keys}
    assert len(masks) == len(keys)


def test_special_tokens_are_the_tokenizers_marks_but_not_unknown_words(bert_tokenizer: Any, gpt_tokenizer: Any) -> None:
    masker = Masker.of(bert_tokenizer, 0.15)
    assert masker.special_ids == (1, 2, 3, 4) and masker.mask_id == 4 and masker.vocab_size == len(bert_tokenizer)
    with pytest.raises(UserError, match="no mask token"):
        Masker.of(gpt_tokenizer, 0.15)


class Watching(nn.Module):
    """Records what it is fed; one weight, so that there is something to train."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen: list[tuple[list[int], ...]] = []

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.seen.append(tuple(map(tuple, input_ids.tolist())))
        return {"loss": self.weight.square().sum() + 0.0 * input_ids.sum(), "logits": input_ids}


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 4, 5, 9], ids=lambda step: f"step{step}")
def test_a_run_stopped_in_mid_epoch_sees_the_masks_it_would_have_seen(tmp_path: Path, stop: int) -> None:
    """12 steps over an epoch of 4: whole, and stopped after ``stop`` steps and resumed."""
    whole = _train(tmp_path / "whole", steps=12, resume=None)
    first = _train(tmp_path / "parts", steps=stop, resume=None)
    rest = _train(tmp_path / "parts", steps=12, resume=tmp_path / "parts" / f"checkpoint-{stop}")
    assert first + rest == whole
    assert len({batch for batch in whole}) == len(whole), "an epoch repeated another's masks"


def _train(folder: Path, steps: int, resume: Path | None) -> list[tuple[list[int], ...]]:
    from transformers import Trainer, TrainingArguments

    from qexp.runner.tasks.epochs import TellEpoch
    from qexp.runner.tasks.language import stack

    blocks = np.arange(5, 5 + 16 * 30, dtype=np.int32).reshape(16, 30)
    dataset = MaskedBlocks(blocks, np.arange(16), MASKER, seed=3)
    model = Watching()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        save_strategy="steps",
        save_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        lr_scheduler_type="constant",
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=dataset, data_collator=stack, callbacks=[TellEpoch(dataset)]
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return model.seen
