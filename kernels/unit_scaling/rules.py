"""What may differ between kinds of unit scaling, as one value that every op takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from qexp.kernels.unit_scaling.constraints import Constraint, geometric_mean, none, to_output

WEIGHT_EXPONENTS = (-0.5, -0.75, -1.0)
"""The paper's, that of the authors' library in 2023, and that of their character models."""


@dataclass(frozen=True)
class Rules:
    """A rule set. Factors are pairs (alpha, beta) before the constraint.

    ``weight_exponent`` e: a parameter's gradient is multiplied by b^e, b the number of rows that it sums over (for an
    embedding, rows over table entries). ``logit_exponent``: attention scores are multiplied by head_dim to this.
    ``readout_exponent``: the last projection's output is multiplied by fan_in to this. ``softmax_exponent``: a softmax
    over s entries is multiplied by s to this, both ways. ``attention``: (length, head_dim, causal) -> the factor of
    attention as one op, both ways. ``rms_norm_gain``: whether RMS norms have a gain.
    """

    name: str
    constraint: Constraint
    logit_exponent: float
    readout_exponent: float
    softmax_exponent: float
    attention: Callable[[int, int, bool], float]
    gelu: tuple[float, float]
    silu: tuple[float, float]
    rms_norm_gain: bool
    weight_exponent: float = -0.5

    def __post_init__(self) -> None:
        if self.weight_exponent not in WEIGHT_EXPONENTS:
            allowed = ", ".join(str(e) for e in WEIGHT_EXPONENTS)
            raise ValueError(f"the weight gradient's exponent is one of {allowed}, got {self.weight_exponent}")

    @property
    def free(self) -> Rules:
        """The same without a constraint, for ops on cut-edges."""
        return replace(self, constraint=none)


def _independent_of_causality(length: int, head_dim: int, causal: bool) -> float:
    """(length / e)^1/2: softmax outputs taken as log-normal."""
    return math.sqrt(length / math.e)


def no_factor(length: int, head_dim: int, causal: bool) -> float:
    """1: attention as the authors' character models have it."""
    return 1.0


def _between_flat_and_one_hot(length: int, head_dim: int, causal: bool) -> float:
    """1 / the library's empirical std: from (1 or log length, over length)^1/2 at flat scores to 1 at one-hot ones."""
    flat = math.sqrt((math.log(length) if causal and length > 1 else 1.0) / length)
    one_hot_share = 1.0 / (1.0 + 4.0 * head_dim)
    return math.pow(flat, one_hot_share - 1.0)


PAPER = Rules(
    name="paper",
    constraint=geometric_mean,
    logit_exponent=-0.5,
    readout_exponent=-0.5,
    softmax_exponent=1.0,
    attention=_independent_of_causality,
    gelu=(1.701, 1.481),
    silu=(1.787, 1.624),
    rms_norm_gain=True,
)
"""The factors of arXiv 2303.11257; attention's is the authors' library's of 2023, SiLU's our own computation."""

U_MUP = Rules(
    name="u_mup",
    constraint=to_output,
    logit_exponent=-1.0,
    readout_exponent=-1.0,
    softmax_exponent=0.9,
    attention=_between_flat_and_one_hot,
    gelu=(1.767, 1.516),
    silu=(1.851, 1.682),
    rms_norm_gain=False,
)
"""arXiv 2407.17465 as the authors' library has it (v0.3), with every multiplier of that paper at 1.

Its residual rule is :func:`~qexp.kernels.unit_scaling.residual.depth_tau`. Not here: its learning rates per parameter,
which are an optimizer's, and its multipliers other than 1. Ops it does not name keep the paper's factors.
"""

RULES = {r.name: r for r in (PAPER, U_MUP)}
