"""What a table's specification, ``conf/table/<paper>/<table>.yaml``, must look like.

A table is a list of experiments, or with ``columns`` a grid in a paper's own shape: one figure a cell, the paper's
figure beside it, and the paper's claims as predicates over the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from qexp.conf.catalog import SCALES, did_you_mean
from qexp.conf.published import PublishedConfig, in_full
from qexp.conf.schema import STRICT, NonNegative

AVERAGE = "average"
"""Name of the column of means."""
_SETTING = r"float|fp16|bf16|fp8|(method|w\d{1,2}a\d{1,2})(\.integer)?"
_NUMBER = r"outliers\.(max_inf_norm|avg_kurtosis)|(analysis|training)(\.[A-Za-z0-9_-]+)+"
FigureName = Annotated[str, Field(pattern=f"^({_SETTING}|{_NUMBER})$")]
"""A setting, whose metric is shown, or a number of the record by its path: of its outlier ``summary``, its
``analysis``, its ``training``."""
ByScale = dict[Annotated[str, Field(pattern=f"^({'|'.join(SCALES)})$")], tuple[str, ...]]
"""Overrides that come on top at a scale, as the ``scales:`` of a group's choice: a group that is chosen anew there
loses the values that it was given. What has none is the same at every scale."""


def is_number(figure: str) -> bool:
    """Whether a figure is a number of the record, not the metric of a setting."""
    return figure.startswith(("analysis.", "outliers.", "training."))


@dataclass(frozen=True, config=STRICT)
class RowConfig:
    """One way of running the experiment; in YAML also the bare list of its overrides.

    ``figure``: what the row shows: the setting ``float``, ``w8a8``, or ``method``, the network as the method itself
    executes it (in integers where the record has that, else simulated); or a number, ``analysis.<path>``.
    """

    overrides: tuple[str, ...] = ()
    scales: ByScale = field(default_factory=dict)
    label: str = ""
    """What is printed; the overrides when empty."""
    name: str = ""
    """What claims and published figures call the row; the label when empty."""
    figure: FigureName = "float"

    @property
    def title(self) -> str:
        return self.label or ", ".join(self.overrides) or "as it is"

    @property
    def key(self) -> str:
        return self.name or self.title


@dataclass(frozen=True, config=STRICT)
class ColumnConfig:
    """What is measured of every row: further overrides, and which figure of their records."""

    label: str
    overrides: tuple[str, ...] = ()
    scales: ByScale = field(default_factory=dict)
    name: str = ""
    """What claims and published figures call the column; the label when empty."""
    metric: str | None = None
    """The task's primary metric when null."""
    figure: FigureName | None = None
    """Instead of the rows' own."""
    higher_is_better: bool | None = None
    """Direction of a number; null where neither is better. A metric brings its own."""

    @property
    def key(self) -> str:
        return self.name or self.label


@dataclass(frozen=True, config=STRICT)
class ClaimConfig:
    """A statement of the paper as a predicate over two rows, two columns of one row, or a row and a number, judged over
    seeds (:mod:`qexp.results.claims`).

    With d the difference of ``row`` from ``than``, positive where ``row`` is better: ``less`` d < -margin, ``greater``
    d > margin, ``at_least`` d >= -margin, ``within_spread`` |d| <= margin, ``equal`` the same figures exactly.
    """

    name: str
    text: str
    """What is claimed, in words that need no other claim beside them: lists of all tables' claims sort by verdict."""
    kind: Literal["less", "greater", "at_least", "within_spread", "equal"]
    row: str
    than: str | float = ""
    """A row, or a number; ``row`` itself when empty: then ``than_columns`` says what it is compared with."""
    columns: tuple[str, ...] = ()
    """Columns that d is averaged over; every one that shows a metric when empty."""
    than_columns: tuple[str, ...] = ()
    """Columns of ``than``, one for each of ``columns``; the same ones when empty."""
    margin: NonNegative | None = None
    """In the metric's unit, of perplexity in that of its logarithm: 0.025 is 2.5 %. Null is 0, and for
    ``within_spread`` the standard deviations of both rows together."""
    min_scale: Literal["smoke", "small", "medium", "paper"] = "small"
    """Below this scale the claim is not judged."""

    @model_validator(mode="after")
    def _margin_has_a_meaning(self) -> ClaimConfig:
        if self.kind == "equal" and self.margin is not None:
            raise ValueError("equal takes no margin: the figures are the same or not")
        if self.kind == "at_least" and self.margin is None:
            raise ValueError("at_least needs a margin: how much worse still counts as no worse")
        if self.number is not None and self.than_columns:
            raise ValueError("a number has no than_columns")
        return self

    @property
    def number(self) -> float | None:
        """What ``row`` is compared with where that is no other row."""
        return None if isinstance(self.than, str) else self.than

    def testable_at(self, scale: str) -> bool:
        return SCALES.index(scale) >= SCALES.index(self.min_scale)


@dataclass(frozen=True, config=STRICT)
class CurvesConfig:
    """Columns as the points of a curve, to be drawn with one line a row."""

    label: str
    """What the horizontal axis is."""
    points: dict[str, float]
    """Where each column lies on it."""
    logarithmic: bool = False


def _row(value: Any) -> Any:
    return {"overrides": value} if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True, config=STRICT)
class TableConfig:
    """A table: every row, in every column, at every seed, with the overrides that all of them share.

    Overrides say what the paper ran, or where we ask further, what we do; ``scales`` says what stands in at a scale.
    Without ``columns`` it is a list of experiments and shows what their records hold.
    ``note`` says what the table can and cannot show; it is printed under it.
    """

    title: str
    rows: tuple[Annotated[RowConfig, BeforeValidator(_row)], ...]
    columns: tuple[ColumnConfig, ...] = ()
    common: tuple[str, ...] = ()
    scales: ByScale = field(default_factory=dict)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = (1000,)
    heading: str = "method"
    """What stands above the rows' labels."""
    average: bool = False
    """A last column with the mean over the columns that show a metric, as papers' GLUE tables have."""
    published: Annotated[PublishedConfig | None, BeforeValidator(in_full)] = None
    claims: tuple[ClaimConfig, ...] = ()
    curves: tuple[CurvesConfig, ...] = ()
    """Panels of the table's picture."""
    paper: str | None = None
    """arXiv id of the paper whose claim the table looks at."""
    note: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> TableConfig:
        if not self.columns:
            self._check_list()
            return self
        for what, names in (
            ("rows", [row.key for row in self.rows]),
            ("rows", [row.title for row in self.rows]),
            ("columns", self._column_names()),
            ("claims", [claim.name for claim in self.claims]),
        ):
            twice = [name for name, times in Counter(names).items() if times > 1]
            if twice:
                raise ValueError(f"two {what} are called {twice[0]!r}")
        self._check_figures()
        self._check_published()
        for claim in self.claims:
            self._check_claim(claim)
        for curves in self.curves:
            for column in curves.points:
                _known(f"curves {curves.label!r}", "column", column, [one.key for one in self.columns])
        return self

    def figure(self, row: RowConfig, column: ColumnConfig) -> str:
        return column.figure or row.figure

    def shows_metric(self, column: ColumnConfig) -> bool:
        """Whether the column shows a metric of the task, and no other number of the records."""
        return not any(is_number(self.figure(row, column)) for row in self.rows)

    def columns_of(self, claim: ClaimConfig) -> tuple[str, ...]:
        return claim.columns or tuple(column.key for column in self.columns if self.shows_metric(column))

    def sides(self, claim: ClaimConfig) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Row and column of every cell that a claim compares, and of those that they are compared with: none, where
        that is a number."""
        columns = self.columns_of(claim)
        others = () if claim.number is not None else claim.than_columns or columns
        return [(claim.row, one) for one in columns], [(str(claim.than) or claim.row, one) for one in others]

    def named(self, row: str, *columns: str) -> str:
        """``"gated attention" on "W8A8"``: a row, and columns, as the table prints them."""
        rows = {one.key: one.title for one in self.rows}
        labels = {one.key: one.label for one in self.columns}
        return " on ".join(filter(None, [f'"{rows[row]}"', ", ".join(f'"{labels[column]}"' for column in columns)]))

    def compared(self, claim: ClaimConfig) -> tuple[str, str]:
        """What a claim compares with what, in words."""
        if claim.number is not None:
            return self.named(claim.row), f"{claim.number:g}"
        row = self.named(claim.row, *(claim.columns if claim.than_columns else ()))
        return row, self.named(str(claim.than) or claim.row, *claim.than_columns)

    def _column_names(self) -> list[str]:
        return [*(column.key for column in self.columns), *([AVERAGE] if self.average else [])]

    def _check_list(self) -> None:
        plain = all(row == RowConfig(row.overrides, row.scales) for row in self.rows)
        if not plain or self.average or self.published or self.claims or self.curves or self.heading != "method":
            raise ValueError("labels, figures, average, published, claims and curves need columns")

    def _check_figures(self) -> None:
        for column in self.columns:
            kinds = {is_number(self.figure(row, column)) for row in self.rows}
            if len(kinds) > 1:
                raise ValueError(f"column {column.key!r} would mix metrics and other numbers; give it a figure")
            if column.metric is not None and True in kinds:
                raise ValueError(f"column {column.key!r} shows a number of the record, which has no metric")
            if column.higher_is_better is not None and False in kinds:
                raise ValueError(f"column {column.key!r}: a metric brings its own direction; drop higher_is_better")

    def _check_published(self) -> None:
        for row, by_column in ((self.published and self.published.cells) or {}).items():
            _known("published", "row", row, [one.key for one in self.rows])
            for column in by_column:
                _known("published", "column", column, self._column_names())

    def _check_claim(self, claim: ClaimConfig) -> None:
        where = f"claim {claim.name!r}"
        by_key = {column.key: column for column in self.columns}
        for row in filter(None, (claim.row, claim.than if claim.number is None else "")):
            _known(where, "row", str(row), [one.key for one in self.rows])
        for name in (*claim.columns, *claim.than_columns):
            _known(where, "column", name, list(by_key))
        if claim.than_columns and len(claim.than_columns) != len(claim.columns):
            raise ValueError(f"{where} needs one of than_columns for each of columns")
        ours, theirs = self.sides(claim)
        if any(one == other for one, other in zip(ours, theirs, strict=False)):
            raise ValueError(f"{where} compares {claim.row!r} with itself")
        sides = [[by_key[column] for _, column in side] for side in (ours, theirs)]
        if any(one.metric != other.metric for one, other in zip(*sides, strict=False)):
            raise ValueError(f"{where} compares columns of unlike metrics")
        self._check_directions(where, [column for side in sides for column in side])

    def _check_directions(self, where: str, chosen: list[ColumnConfig]) -> None:
        if len({self.shows_metric(column) for column in chosen}) != 1:
            raise ValueError(f"{where} needs columns that all show a metric, or all another number")
        if any(not self.shows_metric(column) and column.higher_is_better is None for column in chosen):
            raise ValueError(f"{where} needs to know which direction is better: higher_is_better of its columns")


def _known(where: str, what: str, name: str, names: Iterable[str]) -> None:
    listed = list(names)
    if name not in listed:
        hint = did_you_mean(name, listed) or f"; there are: {', '.join(listed)}"
        raise ValueError(f"{where} names an unknown {what} {name!r}{hint}")
