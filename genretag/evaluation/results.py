"""Results of an evaluation: the figures of all posters, of each label and of each slice.

A slice holds the posters with one value of a CSV column. If a column has many different numbers, its slices are the
quartiles.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import numpy as np

from genretag.evaluation.measure import (
    Difference,
    Figure,
    LabelFigures,
    Measured,
    ScoredPosters,
    compare,
    label_figures,
    measure,
)
from genretag.model.bundle import Bundle
from genretag.runtime.display import QUIET, Display
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.training_ids import Candidate
from genretag.settings import EvaluateSettings

NUMBERS_FROM = 12  # a column of numbers with more different values than this is cut into quartiles
MOST_SLICES = 20  # for a column of text; the rarest values share one slice
NOTHING, OTHERS = "(blank)", "(others)"


@dataclass(frozen=True)
class Slice:
    """Metrics of the first bundle on one slice (a part of the posters), by metric name.

    `posters` is the number of posters of the slice. `against` has the differences to the second bundle. It is empty if
    there is no second bundle.
    """

    posters: int
    figures: dict[str, Figure]
    against: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class Opponent:
    """Second bundle of a comparison: its location (`bundle`), its model version and its figures.

    `differences` are the first bundle's estimates minus this bundle's.
    """

    bundle: str
    model_version: str
    figures: dict[str, Figure]
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation: the location of the bundle (`bundle`), the number of posters, and all figures.

    `against` is None if there is no second bundle.
    """

    bundle: str
    model_version: str
    split: str
    posters: int
    labels: list[str]
    profile: str  # the threshold profile of the table of labels
    resamples: int
    null_from: str  # the source of the null model's prevalence
    figures: dict[str, Figure]
    by_label: list[LabelFigures]
    against: Opponent | None
    slices: dict[str, dict[str, Slice]]  # by column, then by value


@dataclass(frozen=True)
class Answers:
    """The first bundle of an evaluation, the posters it was measured on, and its probabilities for them."""

    bundle: Bundle
    posters: LabelledPosters
    said: ScoredPosters


def measured(
    candidates: Sequence[Candidate],
    posters: LabelledPosters,
    said: Sequence[ScoredPosters],
    columns: Mapping[str, Mapping[str, str]],
    null: tuple[np.ndarray, str],
    settings: EvaluateSettings,
    display: Display = QUIET,
) -> Evaluation:
    """Compute all figures of the first candidate (bundle to measure). Compare it with the second if there is one.

    `said` has the probabilities of each candidate, in the order of `candidates`. `columns` has the CSV columns to slice
    by: column name -> poster id -> cell. `null` is the null model's prevalence, float (L,), and a text that names its
    source.
    """
    labels, (prevalence, null_from) = posters.labelled.labels, null
    masks = {name: slices([column.get(id, "") for id in posters.labelled.ids]) for name, column in columns.items()}
    measurements = len(said) * (1 + sum(map(len, masks.values())))
    display.phase("bootstrap", measurements * settings.bootstrap, unit="draws")

    def of(one: ScoredPosters) -> Measured:
        return measure(one, prevalence, settings.bootstrap, settings.seed, display.advance)

    found = [of(one) for one in said]
    profile = said[0].profiles[settings.profile]
    return Evaluation(
        bundle=candidates[0].location,
        model_version=candidates[0].bundle.model_version,
        split=settings.split,
        posters=len(posters),
        labels=list(labels),
        profile=settings.profile,
        resamples=settings.bootstrap,
        null_from=null_from,
        figures=found[0].figures,
        by_label=label_figures(labels, said[0], profile, found[0]),
        against=_opponent(candidates, found),
        slices={
            name: {value: _slice(mask, said, of) for value, mask in values.items()} for name, values in masks.items()
        },
    )


def _opponent(candidates: Sequence[Candidate], measured: Sequence[Measured]) -> Opponent | None:
    """Return the figures of the second bundle in `candidates`, and the first bundle's differences from them.

    If there is only one bundle, return None.
    """
    if len(candidates) < 2:
        return None
    other = candidates[1]
    return Opponent(other.location, other.bundle.model_version, measured[1].figures, compare(measured[0], measured[1]))


def _slice(mask: np.ndarray, said: Sequence[ScoredPosters], measured: Callable[[ScoredPosters], Measured]) -> Slice:
    """Return the figures of the posters for which `mask`, bool (N,), is True.

    `said` has the probabilities of one or two bundles. `measured` is a function that computes the figures of one
    bundle.
    """
    found = [measured(one.where(mask)) for one in said]
    differences: Mapping[str, Difference] = compare(*found) if len(found) == 2 else {}
    return Slice(int(mask.sum()), found[0].figures, dict(differences))


def slices(values: Sequence[str]) -> dict[str, np.ndarray]:
    """Divide posters into slices by their cells in one CSV column. Return a mask for each slice, by its name.

    A mask is bool (N,), and each poster is in one slice. If the column has more than `NUMBERS_FROM` different values,
    all of them numbers, the slices are the quartiles. Otherwise each value is a slice. If there are more than
    `MOST_SLICES` values, the rarest share the slice `OTHERS`. Blank cells form the slice `NOTHING`.
    """
    cells = [value.strip() for value in values]
    numbers = _numbers(cells)
    names = _quartiles(numbers) if numbers is not None else _commonest(cells)
    known = np.array([name or NOTHING for name in names])
    order = sorted(set(known.tolist()), key=lambda name: (name in (NOTHING, OTHERS), _place(name, names, numbers)))
    return {name: known == name for name in order}


def _numbers(cells: Sequence[str]) -> np.ndarray | None:
    """Return the cells as float64 (N,), with NaN for blank cells.

    Return None if a cell is not a finite number, or if there are at most `NUMBERS_FROM` different values.
    """
    if len(set(cells) - {""}) <= NUMBERS_FROM:
        return None
    try:
        numbers = np.array([float(cell) if cell else np.nan for cell in cells])
    except ValueError:
        return None
    return numbers if all(isfinite(n) for n, cell in zip(numbers, cells, strict=True) if cell) else None


def _quartiles(numbers: np.ndarray) -> list[str]:
    """Return the name of each number's quartile, or an empty text for NaN.

    A name has the smallest and the largest number of the quartile, such as `1950 to 1979`.
    """
    known = numbers[~np.isnan(numbers)]
    quarter = np.searchsorted(np.quantile(known, (0.25, 0.5, 0.75)), numbers, side="right")
    names = np.full(len(numbers), "", dtype=object)
    for number in range(4):
        chosen = (quarter == number) & ~np.isnan(numbers)
        if chosen.any():
            names[chosen] = f"{numbers[chosen].min():g} to {numbers[chosen].max():g}"
    return list(names)


def _commonest(cells: Sequence[str]) -> list[str]:
    """Return the cells, with `OTHERS` for the rarest values if there are more than `MOST_SLICES` values."""
    counts = Counter(cells)
    if len(counts) <= MOST_SLICES:
        return list(cells)
    kept = {cell for cell, _ in counts.most_common(MOST_SLICES - 1)}
    return [cell if cell in kept else OTHERS for cell in cells]


def _place(name: str, names: Sequence[str], numbers: np.ndarray | None) -> tuple[float, str]:
    """Return the sort key of the slice `name`: quartiles by their numbers, other slices by their names.

    `names` has the slice of each poster. `numbers` has the number of each poster, or is None if the column has text.
    """
    if numbers is None or name in (NOTHING, OTHERS):
        return 0.0, name
    return float(numbers[names.index(name)]), name
