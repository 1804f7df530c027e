"""Loading: from a model's configuration to a plain Hugging Face network in float32, ready to be adapted.

Only safetensors, or pickles read with ``weights_only``; never remote code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qexp.conf.errors import UserError
from qexp.conf.schema import ModelConfig, Objective
from qexp.models import charlm
from qexp.models.folders import user_cache_dir
from qexp.models.images import PixelFormat
from qexp.models.quiet import quiet
from qexp.models.scratch import scratch_config, scratch_model
from qexp.models.sources import (
    CAUSAL_FAMILIES,
    IMAGE_FAMILIES,
    MASKED_FAMILIES,
    Checkpoint,
    family_of,
    first_line,
    is_pretrained,
    locate,
    read_config,
    unavailable,
)
from qexp.models.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["family_of", "is_pretrained", "load_model", "load_tokenizer", "network_class", "user_cache_dir"]

PROBLEM_TYPES: Mapping[str, str] = {
    "classification": "single_label_classification",
    "image_classification": "single_label_classification",
    "regression": "regression",
}


def load_model(
    cfg: ModelConfig,
    objective: Objective,
    num_labels: int | None,
    tokenizer: PreTrainedTokenizerBase | PixelFormat,
    max_length: int,
    seed: int,
) -> PreTrainedModel:
    """The network with the head that ``objective`` needs: float32, in evaluation mode, not yet adapted.

    Random weights (all of a model from scratch, or a head that the checkpoint lacks) are a function of ``seed``; the
    global random state stays as it was. ``num_labels`` counts classes (1 for regression; ignored for language models).
    ``tokenizer``: of an image network the pixel format, which nothing here needs.
    Raises UserError when family and objective, label counts, vocabulary or ``max_length`` do not fit, or when the
    checkpoint cannot be read.
    """
    family = family_of(cfg)
    check_objective(family, objective)
    with quiet(), seeded(seed):
        checkpoint = locate(cfg) if is_pretrained(cfg) else None
        if checkpoint is None:
            config = scratch_config(cfg, family, tokenizer)
        else:
            config = _checkpoint_config(checkpoint, family, objective, num_labels)
        fit_head(config, objective, num_labels, tokenizer)
        if objective != "image_classification":
            check_sizes(config, objective, tokenizer, max_length)
        network = network_class(objective)
        model = scratch_model(config, network) if checkpoint is None else _read(checkpoint, config, network)
    return finish(model, family)


def network_class(objective: Objective) -> Any:
    """The ``AutoModel`` class whose head serves ``objective``."""
    import transformers

    names = {"masked_lm": "AutoModelForMaskedLM", "causal_lm": "AutoModelForCausalLM"}
    names |= {"image_classification": "AutoModelForImageClassification"}
    names |= {"question_answering": "AutoModelForQuestionAnswering"}
    return getattr(transformers, names.get(objective, "AutoModelForSequenceClassification"))


def check_objective(family: str, objective: Objective) -> None:
    """Raises UserError for an objective that the family has no head for."""
    if family == charlm.CharLMConfig.model_type and objective != "causal_lm":
        raise UserError(f"{family} models predict the next character only, no {objective}: choose task=wikitext2_chars")
    if (family in IMAGE_FAMILIES) != (objective == "image_classification"):
        what = "sees images" if family in IMAGE_FAMILIES else "reads text"
        raise UserError(f"objective {objective} does not fit the {family} family, which {what}")
    if objective == "question_answering" and family not in MASKED_FAMILIES:
        raise UserError(f"{family} models find no answers: choose one of {', '.join(MASKED_FAMILIES)}, as model=minilm")
    other = {"masked_lm": CAUSAL_FAMILIES, "causal_lm": MASKED_FAMILIES}.get(objective, ())
    if family in other:
        right = "causal_lm" if objective == "masked_lm" else "masked_lm"
        raise UserError(f"objective {objective} does not fit the {family} family: use {right}")


def fit_head(config: Any, objective: Objective, num_labels: int | None, tokenizer: Any) -> None:
    """Write into ``config`` what the head needs: labels, loss, and the padding token that it skips at the end."""
    if hasattr(config, "use_cache"):
        config.use_cache = False  # nothing here generates, and a cache costs memory in every forward pass
    if objective == "question_answering":
        config.num_labels = 2  # start and end
    if objective not in PROBLEM_TYPES:
        return
    if num_labels is None:
        raise ValueError(f"objective {objective} needs num_labels")
    config.num_labels = num_labels
    config.problem_type = PROBLEM_TYPES[objective]
    if objective != "image_classification":
        config.pad_token_id = tokenizer.pad_token_id


def usable_positions(config: Any) -> int:
    """Tokens that fit into one sequence: without a limit in charlm, and RoBERTa counts from behind its padding id."""
    positions = int(getattr(config, "max_position_embeddings", sys.maxsize))
    return positions - config.pad_token_id - 1 if config.model_type == "roberta" else positions


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of the block come from ``seed``; the global (CPU) generator is restored afterwards."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def finish(model: Any, family: str) -> Any:
    """Float32, evaluation mode, GPT-2's positions counted over real tokens only, answers' scores as ``logits``."""
    from qexp.models.adapters._common import swap_class
    from qexp.models.spans import SpanLogits

    if type(model).__name__.endswith("ForQuestionAnswering"):
        swap_class(model, SpanLogits)
    if family == "gpt2":
        model.base_model.register_forward_pre_hook(_count_real_positions, with_kwargs=True)
    return model.float().eval()


def _count_real_positions(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """GPT-2 numbers positions from the left edge, padding included, so padding on the left would shift them.

    OPT counts real tokens by itself, and Llama's positions are relative.
    """
    mask = kwargs.get("attention_mask")
    if mask is None or mask.dim() != 2 or kwargs.get("position_ids") is not None:
        return None
    return args, {**kwargs, "position_ids": (mask.long().cumsum(-1) - 1).clamp(min=0)}


def _checkpoint_config(checkpoint: Checkpoint, family: str, objective: Objective, num_labels: int | None) -> Any:
    from transformers import AutoConfig

    raw = read_config(checkpoint)
    if raw.get("model_type") != family:
        raise UserError(f"model {checkpoint.location!r} is of type {raw.get('model_type')!r}, not {family!r}")
    if raw.get("qexp_methods"):
        raise UserError(
            f"{checkpoint.location!r} was saved by qexp with {', '.join(raw['qexp_methods'])}: "
            "a plain load would drop them"
        )
    try:
        config = AutoConfig.from_pretrained(checkpoint.location, trust_remote_code=False, **_options(checkpoint))
    except Exception as error:  # the strict configuration classes raise errors of their own
        raise _unreadable(checkpoint, error) from error
    check_labels(config, objective, num_labels)
    return config


def check_labels(config: Any, objective: Objective, num_labels: int | None) -> None:
    """Raises UserError when a checkpoint already classifies, and into another number of labels than the task has."""
    heads = ("ForSequenceClassification", "ForImageClassification")
    classifies = any(str(name).endswith(heads) for name in config.architectures or ())
    if objective in PROBLEM_TYPES and classifies and config.num_labels != num_labels:
        raise UserError(
            f"the checkpoint's head has {config.num_labels} labels and the task has {num_labels}: "
            "use the base model, or the task that it was trained on"
        )


def check_sizes(config: Any, objective: Objective, tokenizer: Any, max_length: int) -> None:
    """Raises UserError for a length or a vocabulary that the network has no room for."""
    if max_length > usable_positions(config):
        raise UserError(
            f"task.max_length={max_length} is longer than the model's {usable_positions(config)} positions: "
            f"task.max_length={usable_positions(config)} or less"
        )
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens but the model's vocabulary only {config.vocab_size}"
        )
    if objective == "masked_lm" and tokenizer.mask_token_id is None:
        raise UserError("masked_lm needs a tokenizer with a mask token; this one has none")


def _read(checkpoint: Checkpoint, config: Any, network: Any) -> Any:
    import torch

    try:
        model, report = network.from_pretrained(
            checkpoint.location,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
            **_options(checkpoint),
        )
    except (
        Exception
    ) as error:  # missing, truncated or foreign weights raise from Rust, pickle, zipfile, torch and the hub
        raise _unreadable(checkpoint, error) from error
    _check_report(checkpoint, model, report)
    return model


def _check_report(checkpoint: Checkpoint, model: Any, report: Mapping[str, Any]) -> None:
    """Only a head or a pooler may start fresh, and no weights of a qexp method may be dropped."""
    body = f"{model.base_model_prefix}."
    missing = sorted(key for key in report["missing_keys"] if key.startswith(body) and ".pooler." not in key)
    if missing:
        raise UserError(f"model {checkpoint.location!r} lacks {len(missing)} of its weights, {missing[0]!r} first")
    if any(".qexp." in key for key in report["unexpected_keys"]):
        raise UserError(f"{checkpoint.location!r} carries weights of qexp methods, but its qexp.json is missing")


def _options(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"local_files_only": True, **checkpoint.options}


def _unreadable(checkpoint: Checkpoint, error: Exception) -> UserError:
    if checkpoint.is_local:
        return UserError(f"model folder {checkpoint.location!r} cannot be loaded: {first_line(error)}")
    return unavailable("model", checkpoint.location, error)
