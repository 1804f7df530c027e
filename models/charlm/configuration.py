"""Sizes and choices of a character language model.

No ``annotations`` of the future here: ``strict`` checks types only where these are types, not text.
"""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

RUNNING_MEAN = "running_mean"


@strict
class CharLMConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers is not followed by mypy
    """The authors' model (2303.11257): defaults are those of their attention models' test runs.

    Raises ``ValueError`` where sizes do not divide each other, or for a tau that is none.
    """

    model_type: ClassVar[str] = "charlm"

    vocab_size: int = 256
    hidden_size: int = 128
    num_hidden_layers: int = 8
    """Blocks, each a sequence mixer and a feed-forward layer: 8, and 2 with ``mixer="rnn"``."""
    mixer: Literal["attention", "conv", "rnn"] = "attention"
    norm: Literal["pre", "post", "none"] = "pre"
    """LayerNorm at the start of a branch, after the sum, or neither; the embedding and the last layer keep theirs."""
    tau: float | str | None = RUNNING_MEAN
    """Residual sum (1 - tau)^1/2 x + tau^1/2 f(x): a number in (0, 1), or ``running_mean``, 1 / (1 + l) at the l-th of
    all residual layers; null is x + f(x)."""
    intermediate_size: int = 512
    layer_norm_eps: float = 1e-3

    num_attention_heads: int = 2
    frequencies: int = 128
    """Sinusoids of the relative position: an even number, 4 at least."""
    max_period: int = 1024
    """Of the slowest sinusoid, in characters."""

    kernel_size: int = 7
    groups: int = 8

    rebias: float = 1.0
    """Subtracted from the recurrence's update gate ahead of its sigmoid."""

    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def validate_sizes(self) -> None:
        """Called by ``strict`` after construction."""
        parts = {"attention": self.num_attention_heads, "conv": self.groups}.get(self.mixer, 1)
        if parts < 1 or self.hidden_size % parts:
            raise ValueError(f"hidden_size={self.hidden_size} is no multiple of {parts} heads or groups")
        if self.frequencies < 4 or self.frequencies % 2:
            raise ValueError(f"frequencies={self.frequencies}: an even number, 4 at least, is needed")

    def validate_tau(self) -> None:
        """Called by ``strict`` after construction."""
        known = self.tau is None or self.tau == RUNNING_MEAN
        if not known and not (isinstance(self.tau, float) and 0.0 < self.tau < 1.0):
            raise ValueError(f"tau={self.tau}: a number between 0 and 1, {RUNNING_MEAN} or null is needed")

    def tau_of(self, index: int) -> float | None:
        """tau of the ``index``-th residual layer, from 0 and mixers and feed-forward layers alike; None: plain sum."""
        if self.tau == RUNNING_MEAN:
            return 1.0 / (1.0 + index)
        assert not isinstance(self.tau, str)
        return self.tau
