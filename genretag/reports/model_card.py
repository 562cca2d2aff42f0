"""Model card: a page about a model bundle, with its metrics next to the null model's, its errors and its purpose.

Two commands write a card:

    BUNDLE/report.html    by `genretag train`, for the test posters that it has just scored
    FILE                  by `genretag evaluate --html FILE`

`report.html` lies next to the bundle's files, but `model_version` (a hash of the bundle) does not include it. The null
model gives every poster the same probabilities.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from genretag.errors import UsageError, one_line
from genretag.evaluation.measure import ScoredPosters
from genretag.evaluation.results import Answers, Evaluation, measured
from genretag.model.bundle import FACTS, Bundle
from genretag.model.metrics import LOWER_IS_BETTER
from genretag.model.thresholds import TOP, Profile
from genretag.reports import card_figures
from genretag.reports.card_figures import Case
from genretag.reports.evaluation_table import figure_name
from genretag.reports.evidence_masks import evidence_masks
from genretag.reports.page import Curve, curve, render, write_page
from genretag.reports.tagged_posters import thumbnails
from genretag.scoring.training_ids import Candidate
from genretag.settings import EvaluateSettings
from genretag.storage import Storage, StorageError, join
from genretag.training.make_bundle import MeasuredBundle

logger = logging.getLogger(__name__)

REPORT = "report.html"
TRAINING_NOTE = "training.json"
DEADLINE_S = 30.0  # for all pictures together
MEANS = ("macro_map", "macro_map_frequent", "micro_ap", "macro_roc_auc")
SHARES = (*MEANS, "hit_at_1", "hit_at_3", "micro_f1", "macro_f1")  # from 0 to 1
FEW = 20  # positives; with fewer, a label's figures say little


@dataclass(frozen=True)
class FigureRow:
    """A row of the table of metrics: one metric of the bundle, next to the value of the null model (`null`).

    `other` is the estimate of the second bundle (`--against`), and `difference` the difference of the two bundles. If
    there is no second bundle, or if it lacks the metric, `other` and `difference` are None.
    """

    name: str
    is_share: bool  # True if the figure fits on a line from 0 to 1
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
    """Draw the model card, write it to `place` (a path or an object of a bucket), and return its full location.

    `found` has the metrics, and `answers` the predicted probabilities. If `with_posters` is False, the card has no
    pictures. Raises `UsageError` if the card cannot be written.
    """
    return write_page(place, model_card(found, answers, storage, with_posters=with_posters), storage)


def model_card(found: Evaluation, answers: Answers, storage: Storage, *, with_posters: bool = True) -> bytes:
    """Return the model card as an HTML page in UTF-8.

    `found` has the metrics, and `answers` the predicted probabilities. If a poster cannot be shown, its picture is
    blank. If `with_posters` is False, the page has no pictures and only names the posters.
    """
    bundle, said = answers.bundle, answers.said
    predicted = said.profiles[found.profile].predicted(said.probabilities)
    best, worst = card_figures.cases(answers, predicted)
    if with_posters:
        best, worst = _with_masks(*_with_thumbnails(best, worst, storage), bundle, storage)
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
        has_masks=any(case.mask for case in (*best, *worst)),
        few=[row.label for row in found.by_label if row.support < FEW],
        few_is=FEW,
        slices=_slices(found),
        profiles=_profiles(bundle),
    )


def _with_thumbnails(best: list[Case], worst: list[Case], storage: Storage) -> tuple[list[Case], list[Case]]:
    """Return both lists of cases with thumbnails. A thumbnail that is not ready after `DEADLINE_S` seconds is None."""
    together = [*best, *worst]
    drawn = thumbnails([case.picture for case in together], storage, deadline_s=DEADLINE_S)
    shown = [replace(case, thumbnail=thumbnail) for case, thumbnail in zip(together, drawn, strict=True)]
    return shown[: len(best)], shown[len(best) :]


def _with_masks(best: list[Case], worst: list[Case], bundle: Bundle, storage: Storage) -> tuple[list[Case], list[Case]]:
    """Return both lists of cases with the evidence masks of the most probable labels, if the network has such masks."""
    together = [*best, *worst]
    places = {label: [place] for place, label in enumerate(bundle.labels)}  # the CSV may lack some of these labels
    labels = [places.get(case.most_probable or "", []) if case.thumbnail else [] for case in together]
    try:
        masks = evidence_masks([case.picture for case in together], labels, bundle, storage)
    except UsageError as error:
        logger.info("%s", error)
        return best, worst
    shown = [replace(case, mask=some[0] if some else None) for case, some in zip(together, masks, strict=True)]
    return shown[: len(best)], shown[len(best) :]


def training_facts(bundle: Bundle) -> dict[str, Any]:
    """Return when the bundle was trained (`at`) and with which settings (`settings`, by name), as texts for the page.

    If the bundle does not record the time or the settings, `at` or `settings` is empty.
    """
    training = bundle.facts.get("training", {})
    settings = {name: _text(value) for name, value in training.items() if name != "trained_at"}
    return {"at": str(training.get("trained_at", ""))[:16].replace("T", " "), "settings": settings}


def _text(value: Any) -> str:
    """Return a setting's value as text for the page."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _epochs(location: str, storage: Storage) -> dict[str, Curve]:
    """Return the training curves by name, from `training.json` next to the bundle at `location`.

    If the file cannot be read or has no epochs, return an empty dictionary.
    """
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
    """Return the rows of the table of metrics."""
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
    """Return the rows of the tables of slices (posters with the same value in a CSV column), by column.

    A row has the value, the number of posters, macro mAP and micro F1.
    """
    f1 = f"micro_f1:{found.profile}"
    return {
        column: [(value, part.posters, part.figures["macro_map"], part.figures[f1]) for value, part in parts.items()]
        for column, parts in found.slices.items()
    }


def _profiles(bundle: Bundle) -> dict[str, Profile]:
    """Return the bundle's profiles (named sets of thresholds) by name."""
    return {name: bundle.profile(name) for name in bundle.thresholds}


RESAMPLES = 200  # bootstrap draws: enough for the card of training; `genretag evaluate --html` takes more


def card_of_training(finished: MeasuredBundle, output: str, storage: Storage) -> str:
    """Measure a trained bundle on its test posters, and write its model card. Return the card's location.

    `output` is the location of the bundle, and the card goes next to the bundle's files. Raises `UsageError` if the
    card cannot be written.
    """
    bundle, posters = finished.bundle, finished.test_posters
    profiles = {name: bundle.profile(name) for name in [*bundle.thresholds, TOP]}
    said = ScoredPosters(posters.labelled.multi_hot, finished.test_probabilities, profiles)
    null = np.array(bundle.facts["null"]["prevalence"]), "the bundle's training posters"
    settings = EvaluateSettings(bootstrap=RESAMPLES)
    found = measured([Candidate(output, bundle)], posters, [said], {}, null, settings)
    return write_model_card(join(output, REPORT), found, Answers(bundle, posters, said), storage)
