"""`genretag evaluate`: one evaluation, from a bundle and labelled posters to all figures."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from genretag.data.label_csv import read_column
from genretag.errors import UsageError
from genretag.evaluation.measure import (
    ScoredPosters,
)
from genretag.evaluation.results import Answers, Evaluation, measured
from genretag.evaluation.select_posters import choose_posters
from genretag.model.bundle import Bundle, load_bundle
from genretag.model.thresholds import TOP
from genretag.runtime.display import Display
from genretag.runtime.ray_session import ray_session
from genretag.runtime.session import Session
from genretag.scoring.labelled_posters import LabelledPosters, find_posters, read_label_file
from genretag.scoring.pipeline import score_posters
from genretag.scoring.training_ids import Candidate
from genretag.settings import EvaluateSettings
from genretag.storage import Storage, resolve

logger = logging.getLogger(__name__)


def evaluate(
    bundle: str, labels: str, images: str, settings: EvaluateSettings, session: Session, against: str | None = None
) -> Evaluation:
    """Measure a bundle on labelled posters and return the figures.

    The arguments and the exceptions are those of `evaluate_with_answers`.
    """
    return evaluate_with_answers(bundle, labels, images, settings, session, against)[0]


def evaluate_with_answers(
    bundle: str, labels: str, images: str, settings: EvaluateSettings, session: Session, against: str | None = None
) -> tuple[Evaluation, Answers]:
    """Score labelled posters as `tag` does, and measure the bundle at `bundle` on them.

    `labels` is the location of a CSV, and `images` that of the images. Return the figures, and the posters with their
    probabilities. If `against` is given, measure that bundle on the same posters and compare both bundles.

    Raises `UsageError` if scikit-learn is missing, if an input cannot be read, or if there is no poster to measure on.
    Also raises `UsageError` if a bundle was trained on one of the posters, unless `settings.include_training` is set.
    """
    if find_spec("sklearn") is None:
        raise UsageError("evaluate needs scikit-learn: pip install 'genretag[train]'")
    session = session.owning(bundle, against)
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
    """Load a bundle. Raises `UsageError` if there is none, or if it lacks the threshold profile `settings.profile`."""
    candidate = Candidate(resolve(place), load_bundle(place, storage))
    candidate.bundle.profile(settings.profile)  # an unknown profile must fail now, not after the scoring
    return candidate


def _ask(
    posters: LabelledPosters,
    candidates: Sequence[Candidate],
    settings: EvaluateSettings,
    session: Session,
    display: Display,
) -> tuple[LabelledPosters, list[ScoredPosters]]:
    """Return the posters that every bundle in `candidates` could score, and each bundle's probabilities for them.

    Raises `UsageError` if no poster can be read.
    """
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
        said.append(ScoredPosters(posters.labelled.multi_hot, probabilities[kept][:, columns], decide))
    return posters, said


def _profiles(bundles: Sequence[Bundle], chosen: str) -> list[str]:
    """Return the names of the threshold profiles (named sets of thresholds) to measure, each once.

    They are the profiles that every bundle has, the profile `chosen`, and `TOP` (the three most probable labels).
    """
    first, *others = bundles
    named = [name for name in first.thresholds if all(name in other.thresholds for other in others)]
    return list(dict.fromkeys([*named, chosen, TOP]))


def _null(bundle: Bundle, posters: LabelledPosters, others: LabelledPosters) -> tuple[np.ndarray, str]:
    """Return the prevalence that the null model predicts, float (L,), and a text that names its source.

    The source is the bundle's training posters. If the bundle does not record their prevalence, the source is `others`,
    the posters that are not measured. If `others` is empty, the source is `posters`, the measured posters.
    """
    if "null" in bundle.facts:
        prevalence = dict(zip(bundle.labels, bundle.facts["null"]["prevalence"], strict=True))
        return np.array([prevalence[label] for label in posters.labelled.labels]), "the bundle's training posters"
    if len(others):
        source = "the CSV's other posters, as the bundle does not keep its training posters' prevalence"
        return others.labelled.multi_hot.mean(axis=0), source
    return posters.labelled.multi_hot.mean(axis=0), "the evaluated posters themselves, which favours the null model"
