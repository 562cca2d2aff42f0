"""The model card: what a bundle is, how good it is beside a model that never looks, where it errs, and what it is for.

BUNDLE/report.html    written by training, beside the bundle's files and no part of `model_version`
`genretag evaluate --html FILE`
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from genretag.bundle import FACTS, Bundle
from genretag.errors import one_line
from genretag.evaluation.job import Answers, Evaluation
from genretag.evaluation.report import figure_name
from genretag.modeling.metrics import LOWER_IS_BETTER
from genretag.profiles import Profile
from genretag.reports import card_figures
from genretag.reports.card_figures import Case
from genretag.reports.charts import Curve, curve
from genretag.reports.page import render
from genretag.reports.thumbnails import thumbnails
from genretag.reports.writing import write_page
from genretag.storage import Storage, StorageError, join

REPORT = "report.html"
TRAINING_NOTE = "training.json"
DEADLINE_S = 30.0  # for the pictures
MEANS = ("macro_map", "macro_map_frequent", "micro_ap", "macro_roc_auc")
SHARES = (*MEANS, "hit_at_1", "hit_at_3", "micro_f1", "macro_f1")  # from 0 to 1
FEW = 20  # positives, below which a label's figures say little

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FigureRow:
    """One figure beside the null model's, and beside the opponent's estimate if there is one."""

    name: str
    is_share: bool  # can be drawn on a line from 0 to 1
    lower_is_better: bool
    value: float
    estimate: float
    low: float
    high: float
    null: float
    other: float | None
    difference: Any


def write_model_card(
    place: str, found: Evaluation, answers: Answers, storage: Storage, *, with_posters: bool = True
) -> str:
    """Draws the card and writes it; returns where. Raises `UsageError` where it cannot be written."""
    return write_page(place, model_card(found, answers, storage, with_posters=with_posters), storage)


def model_card(found: Evaluation, answers: Answers, storage: Storage, *, with_posters: bool = True) -> bytes:
    """The page, in UTF-8. A poster that cannot be shown is a blank in it; without posters it only names them."""
    bundle, said = answers.bundle, answers.said
    predicted = said.profiles[found.profile].predicted(said.probabilities)
    best, worst = card_figures.cases(answers, predicted)
    if with_posters:
        best, worst = _with_thumbnails(best, worst, storage)
    before = card_figures.uncalibrated(bundle, found.labels, said.probabilities)
    return render(
        "model_card.html",
        found=found,
        bundle=bundle,
        facts={name: bundle.facts.get(name) for name in FACTS},
        training=training_facts(bundle),
        epochs=_epochs(found.bundle, storage),
        figures=_figure_rows(found),
        headline=found.figures["macro_map"],
        curves=card_figures.precision_recall(answers, found.by_label),
        calibration=card_figures.calibration_of_labels(said.truth, said.probabilities),
        reliability=card_figures.reliability(said.truth, said.probabilities, before),
        together=card_figures.together(found.labels, said.truth, predicted),
        best=best,
        worst=worst,
        with_posters=with_posters,
        few=[row.label for row in found.by_label if row.support < FEW],
        few_is=FEW,
        slices=_slices(found),
        profiles=_profiles(bundle),
    )


def _with_thumbnails(best: list[Case], worst: list[Case], storage: Storage) -> tuple[list[Case], list[Case]]:
    together = [*best, *worst]
    drawn = thumbnails([case.picture for case in together], storage, deadline_s=DEADLINE_S)
    shown = [replace(case, thumbnail=thumbnail) for case, thumbnail in zip(together, drawn, strict=True)]
    return shown[: len(best)], shown[len(best) :]


def training_facts(bundle: Bundle) -> dict[str, Any]:
    """The settings of the training as the bundle tells them, and when it was, apart."""
    training = bundle.facts.get("training", {})
    settings = {name: _text(value) for name, value in training.items() if name != "trained_at"}
    return {"at": str(training.get("trained_at", ""))[:16].replace("T", " "), "settings": settings}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _epochs(location: str, storage: Storage) -> dict[str, Curve]:
    """The training curves, where the note beside the bundle holds them."""
    try:
        epochs = json.loads(bytes(storage.get(join(location, TRAINING_NOTE)).data))["epochs"]
        numbers = [float(epoch["epoch"]) for epoch in epochs]
        series = {
            "training loss": [float(epoch["loss"]) for epoch in epochs],
            "validation macro mAP": [float(epoch["macro_map"]) for epoch in epochs],
        }
    except (StorageError, ValueError, KeyError, TypeError) as error:
        logger.info("no training curves: %s", one_line(error))
        return {}
    return {name: curve(numbers, values, 240, 110) for name, values in series.items() if values}


def _figure_rows(found: Evaluation) -> list[FigureRow]:
    other = found.against
    return [
        FigureRow(
            name=figure_name(name),
            is_share=name.partition(":")[0] in SHARES,
            lower_is_better=name in LOWER_IS_BETTER,
            value=figure.value,
            estimate=figure.estimate,
            low=figure.low,
            high=figure.high,
            null=figure.null,
            other=other.figures[name].estimate if other and name in other.figures else None,
            difference=other.differences.get(name) if other else None,
        )
        for name, figure in found.figures.items()
    ]


def _slices(found: Evaluation) -> Mapping[str, list[tuple[str, int, Any, Any]]]:
    """By column: the value, its posters, macro mAP and micro F1."""
    f1 = f"micro_f1:{found.profile}"
    return {
        column: [(value, part.posters, part.figures["macro_map"], part.figures[f1]) for value, part in parts.items()]
        for column, parts in found.slices.items()
    }


def _profiles(bundle: Bundle) -> dict[str, Profile]:
    return {name: bundle.profile(name) for name in bundle.thresholds}
