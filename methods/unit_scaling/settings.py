"""Settings of unit scaling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from qexp.conf.schema import STRICT, ModelConfig
from qexp.models.sources import family_of

Tau = Annotated[float, Field(gt=0.0, lt=1.0)]
LATER = {"attention": "scaled"}
EXPONENTS = (-0.5, -0.75, -1.0)
TAU, ATTENTION_TAU = 0.5, 0.01
"""What the authors' library of 2023 advises for feed-forward and for attention branches."""


@dataclass(frozen=True, config=STRICT)
class Settings:
    """Which factors, how residual branches are weighed, and how fast parameters learn. Null: the rule set's own."""

    rules: Literal["paper", "u_mup"] = "paper"
    """The factors of arXiv 2303.11257, or those of the later library (u-muP, 2407.17465)."""
    constraint: Literal["geometric_mean", "to_output", "none"] | None = None
    """One factor out of several, inside of branches. Null: ``geometric_mean`` (paper), ``to_output`` (u_mup)."""
    weight_gradient_exponent: float = -0.5
    """A parameter's gradient, a sum over b rows, is multiplied by b to this: the paper, the library of 2023, the
    authors' character models."""
    residual: Literal["fixed", "running_mean", "depth"] | None = None
    """Share tau of a branch in the variance of a residual sum: constants, 1 / (1 + index), or u-muP's rule. Null: that
    of a model which weighs its sums anyway (``charlm``), else ``fixed`` (paper), ``depth`` (u_mup)."""
    tau: Tau | None = None
    """``fixed`` only: of feed-forward branches. Null: 0.5."""
    attention_tau: Tau | None = None
    """``fixed`` only: of attention branches. Null: 0.01."""
    attention: Literal["scaled", "plain"] | None = None
    """Attention as one op, with the rule set's factor or without one, as the authors' character models have it. Null:
    ``plain`` in those, else ``scaled``."""
    learning_rates: Literal["uniform", "vectors", "u_mup"] | None = None
    """``vectors``: of biases and gains divided by size^1/2, as the authors' character models. Null: ``vectors``
    (paper), ``u_mup`` (u_mup)."""

    only_in_float = True  # no annotation: it is no setting, as the next two
    from_scratch_only = True
    families = ("bert", "gpt2", "llama", "charlm")

    def __post_init__(self) -> None:
        if self.weight_gradient_exponent not in EXPONENTS:
            known = ", ".join(map(str, EXPONENTS))
            raise ValueError(f"weight_gradient_exponent={self.weight_gradient_exponent}: expected one of {known}")
        if self.residual_rule != "fixed" and (self.tau, self.attention_tau) != (None, None):
            raise ValueError(f"tau and attention_tau belong to residual=fixed, and residual is {self.residual_rule}")

    @staticmethod
    def settled(settings: Mapping[str, Any], model: ModelConfig) -> dict[str, Any]:
        """The settings with what they leave to ``model``."""
        plain = family_of(model) == "charlm" and model.dimensions.get("mixer", "attention") == "attention"
        return {**settings, "attention": settings["attention"] or ("plain" if plain else "scaled")}

    @property
    def residual_rule(self) -> str:
        return self.residual or ("fixed" if self.rules == "paper" else "depth")

    @property
    def learning_rate_rule(self) -> str:
        return self.learning_rates or ("vectors" if self.rules == "paper" else "u_mup")
