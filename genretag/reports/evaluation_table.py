"""Output of an evaluation: tables on a terminal for people, and JSON for programs."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Any

from genretag.evaluation.measure import Difference, Figure, LabelFigures
from genretag.evaluation.results import Evaluation, Opponent
from genretag.model.metrics import ECE_BINS, FREQUENT, LOWER_IS_BETTER

if TYPE_CHECKING:
    from rich.table import Table


NAMES = {
    "macro_map": "macro mAP",
    "macro_map_frequent": f"macro mAP, labels of at least {FREQUENT} posters",
    "micro_ap": "micro AP",
    "macro_roc_auc": "macro ROC AUC",
    "hit_at_1": "hit@1",
    "hit_at_3": "hit@3",
    "ranking_loss": "ranking loss",
    "coverage_error": "coverage error",
    "bce": "cross-entropy",
    "ece": f"ECE, {ECE_BINS} equal bins",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "labels": "labels per poster",
}
WIDTH_OF_A_FILE = 120  # columns, if the output is not a terminal
# Figures of a slice, besides micro F1 of the profile; the JSON has all figures.
IN_SLICES = ("macro_map", "hit_at_3", "bce")


def to_json(found: Evaluation) -> str:
    """Return the whole evaluation as JSON text. A figure that is NaN becomes null."""
    return json.dumps(_known(asdict(found)), indent=1, ensure_ascii=False) + "\n"


def print_report(found: Evaluation) -> None:
    """Print which model was measured on which posters, and tables of metrics: overall, by label, and by CSV column."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH_OF_A_FILE
    posters = {"all": "posters of the CSV"}.get(found.split, f"{found.split} posters")
    console.print(f"{escape(found.bundle)} (model {found.model_version}): {found.posters:,} {posters}")
    if found.split == "validation":
        console.print("its calibration and thresholds were chosen on these posters: figures are slightly too good")
    console.print(f"null: a model that gives every poster the prevalence of {found.null_from}")
    console.print("measured: on these posters, as scikit-learn computes it")
    console.print("estimate: for all posters like these, without the bias of small samples (average precision, ECE)")
    console.print(f"in parentheses: the estimate's 95 % interval, from {found.resamples:,} bootstrap draws of posters")
    console.print(_figures_table(found))
    if found.against:
        console.print(f"against {escape(found.against.bundle)} (model {found.against.model_version})")
        console.print(_differences_table(found, found.against))
    console.print(_labels_table(found))
    for column, values in found.slices.items():
        table = _table(escape(column), "posters", *(figure_name(name) for name in _in_slices(found)))
        for value, part in values.items():
            row = (_with_interval(part.figures[name], _short) for name in _in_slices(found))
            table.add_row(escape(value), f"{part.posters:,}", *row)
        console.print(table)


def _figures_table(found: Evaluation) -> "Table":
    """Return the table of all metrics: null model (same prediction for every poster), measured value, and estimate."""
    table = _table("", "null", "measured", "estimate")
    for name, figure in found.figures.items():
        sign = " (less is better)" if name in LOWER_IS_BETTER else ""
        cells = (_precise(figure.null), _precise(figure.value), _with_interval(figure, _precise))
        table.add_row(figure_name(name) + sign, *cells)
    return table


def _differences_table(found: Evaluation, other: Opponent) -> "Table":
    """Return the table that compares two bundles.

    Each row has a metric's estimates for both bundles, and their difference. It also has the share of bootstrap draws
    in which the bundle of `found` is better.
    """
    table = _table("estimates", "other", "model", "difference", "better in")
    for name, difference in other.differences.items():
        better = "" if difference.better_in is None else f"{difference.better_in:.1%}"
        both = (_precise(figures[name].estimate) for figures in (other.figures, found.figures))
        table.add_row(figure_name(name), *both, _signed(difference), better)
    return table


def _labels_table(found: Evaluation) -> "Table":
    """Return the table with the metrics of each label: average precision, threshold, precision, recall and F1."""
    from rich.markup import escape

    columns = ("posters", "null's AP", "AP", "AP, estimate", "threshold", "precision", "recall", "F1")
    table = _table(f"label ({found.profile})", *columns)
    for row in found.by_label:
        precision = (_short(row.average_precision), _with_interval(row, _short))
        rest = map(_short, (row.threshold, row.precision, row.recall, row.f1))
        table.add_row(escape(row.label), f"{row.support:,}", _short(row.prevalence), *precision, *rest)
    return table


def _table(first: str, *columns: str) -> "Table":
    """Return an empty table. All columns but the first are aligned to the right."""
    from rich.table import Table

    table = Table(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _in_slices(found: Evaluation) -> list[str]:
    """Return the names of the metrics in the tables of slices (posters with the same value in a CSV column)."""
    return [*IN_SLICES, f"micro_f1:{found.profile}"]


def figure_name(figure: str) -> str:
    """Return the name of a figure for people: `micro_f1:balanced` -> `micro F1, balanced`."""
    name, _, profile = figure.partition(":")
    return f"{NAMES[name]}, {profile}" if profile else NAMES[name]


def _with_interval(figure: Figure | LabelFigures, form: Callable[[float], str]) -> str:
    """Return the estimate and its interval as text. `form` turns a number into text."""
    return f"{form(figure.estimate)} ({form(figure.low)}–{form(figure.high)})"


def _signed(difference: Difference) -> str:
    return f"{difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"


def _short(number: float) -> str:
    return f"{number:.3f}" if isfinite(number) else "-"


def _precise(number: float) -> str:
    return f"{number:.4f}" if isfinite(number) else "-"


def _known(value: Any) -> Any:
    """Return the value with None for each float in it that is NaN or infinite, because JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _known(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_known(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def print_metrics(metrics: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the metrics that training measured, each next to the null model's (the same prediction for every poster).

    `metrics` has the values by split, then by `model` or `null`, then by name. A small split lacks some figures.
    """
    from rich.console import Console
    from rich.table import Table

    columns = [(split, name) for split in metrics for name in ("null", "model")]
    table = Table("", *(f"{split}: {name}" for split, name in columns))
    for figure in dict.fromkeys(figure for split, name in columns for figure in metrics[split][name]):
        table.add_row(figure, *(str(metrics[split][name].get(figure, "-")) for split, name in columns))
    Console().print(table)
