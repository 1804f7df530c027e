"""Models from scratch: their configuration, and the initialisation that the paper's released code really has."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from qexp.conf.errors import UserError
from qexp.conf.schema import ModelConfig
from qexp.models.sources import IMAGE_FAMILIES, PATCH_LAYER_NORM, first_line

_BERT_PROJECTIONS = ("attention.self.query", "attention.self.key", "attention.self.value")
TORCH_INITIALISED: Mapping[str, tuple[str, ...]] = {
    "bert": _BERT_PROJECTIONS,
    "roberta": _BERT_PROJECTIONS,
    "ernie": _BERT_PROJECTIONS,
    "opt": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
}


def scratch_config(cfg: ModelConfig, family: str, tokenizer: Any) -> Any:
    """The family's Hugging Face configuration with ``cfg.dimensions`` and, of text, the tokenizer's vocabulary.

    Raises UserError for a key that the family does not have, or a value that it does not take.
    """
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[family]
    _check_keys(cfg.dimensions, kind, family)
    given = {PATCH_LAYER_NORM: cfg.patch_layer_norm} if family in IMAGE_FAMILIES else _vocabulary(tokenizer)
    try:
        return kind(**{**given, **cfg.dimensions})
    except Exception as error:  # the strict configuration classes raise errors of their own
        raise UserError(f"model.dimensions do not fit {family}: {' '.join(str(error).split())}") from error


def _vocabulary(tokenizer: Any) -> dict[str, int]:
    tokens = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return {"vocab_size": len(tokenizer), **tokens}


def scratch_model(config: Any, network: Any) -> Any:
    """A new ``network`` (an ``AutoModel`` class) with random weights from the global generator.

    Raises UserError for dimensions that do not fit each other.
    """
    try:
        model = network.from_config(config)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(f"model.dimensions do not fit each other: {first_line(error)}") from error
    torch_initialise_attention(model, config.model_type)
    return model


def _check_keys(dimensions: Mapping[str, Any], kind: Any, family: str) -> None:
    known = {field.name for field in dataclasses.fields(kind)} | set(kind.attribute_map)
    for key in dimensions:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; nearest: {near[0]}" if near else ""
            raise UserError(f"model.dimensions.{key} is no setting of the {family} configuration{hint}")


def torch_initialise_attention(model: Any, family: str) -> None:
    """Give attention projections ``nn.Linear``'s own initialisation, U(±1/sqrt(d)) with random biases, in place.

    The paper says N(0, .02) (BERT) and N(0, .006) (OPT), but its code swaps attention modules after the model was
    initialised, so q, k, v (BERT) and q, k, v, out (OPT) keep PyTorch's default, in the vanilla rows too. It matters:
    with smaller weights a clipped softmax starts with nearly every probability clipped to zero and no gradient
    (gamma = -.025, T = 128: .02 % of entries survive with this initialisation, none with N(0, .006)).
    GPT-2 and Llama, which the paper does not train, keep Hugging Face's initialisation.
    """
    suffixes = TORCH_INITIALISED.get(family, ())
    for name, module in model.named_modules():
        if suffixes and name.endswith(suffixes):
            module.reset_parameters()
