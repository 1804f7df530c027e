"""A table as Markdown, LaTeX, CSV or HTML, and as files to commit together with the records that it was made of."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

from qexp.conf.errors import UserError
from qexp.results.outcomes import copy
from qexp.results.store import Store
from qexp.results.table import Cell, Table

CSV_FIGURES = ("metric", "setting", "mean", "std", "n", "problem", "best", "higher_is_better", "definition")
REFERENCE_RECORDS = "records"
"""Sub-folder of a committed table with its records; itself a table of a :class:`Store` at the folder."""


def to_markdown(table: Table) -> str:
    """A pipe table with its caption above and its notes below."""
    lines = [_pipes([_markdown(heading) for heading in table.headings])]
    lines.append(_pipes([":---"] * len(table.row_keys) + ["---:"] * (len(table.headings) - len(table.row_keys))))
    for row in table.cells:
        lines.append(_pipes([f"**{_markdown(cell.text)}**" if cell.best else _markdown(cell.text) for cell in row]))
    notes = [f"- {_markdown(note)}" for note in table.notes]
    return "\n".join([f"**{_markdown(table.caption)}**", "", *lines, "", *notes]) + "\n"


def _pipes(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    """Escape what Markdown would act on; an underscore inside a word is no emphasis and stays."""
    return " ".join(re.sub(r"[\\|*`<\[]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text).split())


def to_latex(table: Table) -> str:
    """A ``table`` environment for the ``booktabs`` package, notes in small print; needs no other package."""
    columns = "l" * len(table.row_keys) + "r" * (len(table.headings) - len(table.row_keys))
    rows = [_latex_row([_latex_cell(cell) for cell in row]) for row in table.cells]
    notes = [rf"\par\smallskip\footnotesize {_latex(note)}" for note in table.notes]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(table.caption)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _latex_row([_latex(heading) for heading in table.headings]),
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        *notes,
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}"},
    **{"|": r"\textbar{}", "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "×": r"$\times$"},
    **{"–": "--", "…": r"\ldots{}", "[": "{[}", "]": "{]}", "·": r"$\cdot$", "²": r"\textsuperscript{2}"},
}


def _latex(text: str) -> str:
    return " ".join("".join(LATEX.get(character, character) for character in text).split())


def _latex_cell(cell: Cell) -> str:
    return rf"\textbf{{{_latex(cell.text)}}}" if cell.best else _latex(cell.text)


def _latex_row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def to_csv(table: Table) -> str:
    """One line a figure, for programs: row keys, seeds, then metric, setting, mean, std, n, and what they mean.

    Figures have full precision; what is not known (a mean of nothing, the spread of one) is an empty field. The
    definition of a figure executed in integers ends with its certificate. ``published`` is there where a paper's is.
    A claim is a line of its own, after the figures: metric ``claim``, its kind as setting, its verdict as problem.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    published = ["published"] if any(cell.published is not None for row in table.cells for cell in row) else []
    writer.writerow([*table.row_keys, "seeds", *CSV_FIGURES, *published])
    for row in table.cells:
        labels = [cell.text for cell in row[: table.labels]]
        for column, cell in zip(table.columns, row[table.labels :], strict=True):
            found = cell.summary
            figures = [repr(found.mean), "" if found.std is None else repr(found.std)] if found else ["", ""]
            told = [found.n if found else 0, cell.problem, int(cell.best), int(column.higher_is_better)]
            definition = "; ".join(filter(None, [cell.definition, cell.certificate]))
            papers = ["" if cell.published is None else repr(cell.published.value)] if published else []
            setting = cell.setting or column.setting
            writer.writerow([*labels, column.metric, setting, *figures, *told, definition, *papers])
        if not table.columns:
            writer.writerow([*labels, *[""] * len(CSV_FIGURES)])
    for one in table.verdicts:
        names = [one.claim.name, *[""] * (table.labels - 1)]
        told = [one.verdict, 0, "", f"{one.claim.text.rstrip('.')}. {one.numbers}"]
        writer.writerow([*names, "claim", one.claim.kind, "", "", "", *told, *[""] * len(published)])
    return file.getvalue()


def to_html(table: Table) -> str:
    """A page of its own: light or dark as the reader's system is, no script, nothing fetched from anywhere."""
    from qexp.results.html import render

    return render("table.html.j2", table=table)


def write_reference(table: Table, folder: Path, predictions: bool = False) -> list[Path]:
    """Write ``table.md``, ``table.csv`` and ``records/<cell id>.json`` below ``folder``, to be committed together.

    A table with curves and a figure for them is also drawn, as ``curves.png``.
    The records lose what holds for one machine only: its folders, and the names of files that lay beside them, but for
    their ``predictions`` where these are to be copied too.
    ``qexp table`` with ``results_dir=folder`` makes the same table again.
    """
    store = Store(folder)
    paths = []
    for record in table.records:
        here = {"table": REFERENCE_RECORDS, "data_dir": None, "results_dir": "."}
        kept = copy(record, store.files(REFERENCE_RECORDS, record.cell_id)) if predictions else {}
        paths.append(store.save(replace(record, config={**record.config, **here}, artifacts=kept)))
    for name, content in (("table.md", to_markdown(table)), ("table.csv", to_csv(table))):
        path = folder / name
        try:
            path.write_text(content, encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        paths.append(path)
    if table.has_curves:
        from qexp.results.curves import draw_curves

        draw_curves(table, folder / "curves.png")
        paths.append(folder / "curves.png")
    return paths
