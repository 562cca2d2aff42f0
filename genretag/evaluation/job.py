"""One evaluation, from a bundle and labelled posters to all figures."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np

from genretag.bundle import Bundle, load_bundle
from genretag.display import QUIET, Display
from genretag.errors import UsageError
from genretag.evaluation.choosing import Candidate, choose_posters
from genretag.evaluation.measuring import (
    Difference,
    Figure,
    LabelFigures,
    Measured,
    Said,
    compare,
    label_figures,
    measure,
)
from genretag.evaluation.settings import EvaluateSettings
from genretag.evaluation.slices import slices
from genretag.label_csv.reading import read_column
from genretag.profiles import TOP
from genretag.ray_session import ray_session
from genretag.session import Session
from genretag.storage import Storage, resolve
from genretag.training.evaluation import score_posters
from genretag.training.labelled_posters import LabelledPosters, find_posters, read_label_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slice:
    """The posters with one value of a column."""

    posters: int
    figures: dict[str, Figure]
    against: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class Opponent:
    """The bundle that was compared, and what is the difference of the first one to it."""

    bundle: str
    model_version: str
    figures: dict[str, Figure]
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Evaluation:
    """What was measured, of whom, on what."""

    bundle: str
    model_version: str
    split: str
    posters: int
    labels: list[str]
    profile: str  # of the table of labels
    resamples: int
    null_from: str  # where the null model's prevalence comes from
    figures: dict[str, Figure]
    by_label: list[LabelFigures]
    against: Opponent | None
    slices: dict[str, dict[str, Slice]]  # by column, by value


@dataclass(frozen=True)
class Answers:
    """What the figures were computed from: the posters, and what the bundle says of them."""

    bundle: Bundle
    posters: LabelledPosters
    said: Said


def evaluate(
    bundle: str, labels: str, images: str, settings: EvaluateSettings, session: Session, against: str | None = None
) -> Evaluation:
    """`evaluate_with_answers` for those who want the figures only."""
    return evaluate_with_answers(bundle, labels, images, settings, session, against)[0]


def evaluate_with_answers(
    bundle: str, labels: str, images: str, settings: EvaluateSettings, session: Session, against: str | None = None
) -> tuple[Evaluation, Answers]:
    """Scores labelled posters as tagging does, and measures a bundle, and `against` beside it, on them.

    Raises `UsageError` where a person must act, above all where a bundle was trained on the posters.
    """
    if find_spec("sklearn") is None:
        raise UsageError("evaluate needs scikit-learn: pip install 'genretag[train]'")
    storage = session.storage
    with Display(session) as display:
        display.phase("reading")
        candidates = [_load(place, settings, storage) for place in (bundle, against) if place is not None]
        content = read_label_file(labels, storage)
        columns = {name: read_column(content, resolve(labels), name, settings) for name in settings.slice}
        labelled = find_posters(content, labels, images, storage, settings, min_positives=0)
        posters, others = choose_posters(labelled, candidates, settings, storage)
        logger.info("%d posters to evaluate (%s), %d others", len(posters), settings.split, len(others))
        posters, said = _ask(posters, candidates, settings, session, display)
        null = _null(candidates[0].bundle, posters, others)
        found = measured(candidates, posters, said, columns, null, settings, display)
    return found, Answers(candidates[0].bundle, posters, said[0])


def _load(place: str, settings: EvaluateSettings, storage: Storage) -> Candidate:
    candidate = Candidate(resolve(place), load_bundle(place, storage))
    candidate.bundle.profile(settings.profile)  # or it would be missed after the scoring
    return candidate


def measured(
    candidates: Sequence[Candidate],
    posters: LabelledPosters,
    said: Sequence[Said],
    columns: Mapping[str, Mapping[str, str]],
    null: tuple[np.ndarray, str],
    settings: EvaluateSettings,
    display: Display = QUIET,
) -> Evaluation:
    """All figures. `columns` are those of the slices, cells by poster; `null` is what `_null` says."""
    labels, (prevalence, null_from) = posters.labelled.labels, null
    masks = {name: slices([column.get(id, "") for id in posters.labelled.ids]) for name, column in columns.items()}
    measurements = len(said) * (1 + sum(map(len, masks.values())))
    display.phase("bootstrap", measurements * settings.bootstrap, unit="draws")

    def of(one: Said) -> Measured:
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


def _ask(
    posters: LabelledPosters,
    candidates: Sequence[Candidate],
    settings: EvaluateSettings,
    session: Session,
    display: Display,
) -> tuple[LabelledPosters, list[Said]]:
    """The posters that every candidate could score, and what each one says of them."""
    display.phase("starting Ray")
    with ray_session(session) as cluster:
        display.phase("scoring", len(posters) * len(candidates))
        scored = [score_posters(posters, one.bundle, cluster, session.storage, display) for one in candidates]
    kept = np.logical_and.reduce([readable for readable, _ in scored])
    if not kept.any():
        raise UsageError("none of the posters can be read: `genretag tag` says why of each, in failures/")
    profiles = _profiles([candidate.bundle for candidate in candidates], settings.profile)
    labels = posters.labelled.labels
    posters = posters.where(kept)
    said = []
    for candidate, (_, probabilities) in zip(candidates, scored, strict=True):
        columns = [candidate.bundle.labels.index(label) for label in labels]
        decide = {name: candidate.bundle.profile(name).among(columns) for name in profiles}
        said.append(Said(posters.labelled.multi_hot, probabilities[kept][:, columns], decide))
    return posters, said


def _profiles(bundles: Sequence[Bundle], chosen: str) -> list[str]:
    """The profiles that every bundle has, by name, each once."""
    first, *others = bundles
    named = [name for name in first.thresholds if all(name in other.thresholds for other in others)]
    return list(dict.fromkeys([*named, chosen, TOP]))


def _null(bundle: Bundle, posters: LabelledPosters, others: LabelledPosters) -> tuple[np.ndarray, str]:
    """What the null model says, float (L,), and where that comes from."""
    if "null" in bundle.facts:
        prevalence = dict(zip(bundle.labels, bundle.facts["null"]["prevalence"], strict=True))
        return np.array([prevalence[label] for label in posters.labelled.labels]), "the bundle's training posters"
    if len(others):
        source = "the CSV's other posters, as the bundle does not keep its training posters' prevalence"
        return others.labelled.multi_hot.mean(axis=0), source
    return posters.labelled.multi_hot.mean(axis=0), "the evaluated posters themselves, so it knows what it should not"


def _opponent(candidates: Sequence[Candidate], measured: Sequence[Measured]) -> Opponent | None:
    if len(candidates) < 2:
        return None
    other = candidates[1]
    return Opponent(other.location, other.bundle.model_version, measured[1].figures, compare(measured[0], measured[1]))


def _slice(mask: np.ndarray, said: Sequence[Said], measured: Callable[[Said], Measured]) -> Slice:
    """Every bundle on the posters of a mask, bool (N,): the first one's figures, and its lead on the other."""
    found = [measured(one.where(mask)) for one in said]
    differences: Mapping[str, Difference] = compare(*found) if len(found) == 2 else {}
    return Slice(int(mask.sum()), found[0].figures, dict(differences))
