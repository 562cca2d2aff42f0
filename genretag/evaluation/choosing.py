"""Which posters a bundle may be measured on: those that its own training held out."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from genretag.bundle import Bundle
from genretag.errors import UsageError, one_line
from genretag.evaluation.settings import EvaluateSettings
from genretag.labels import with_labels
from genretag.splits import SplitRule, split_of
from genretag.storage import Storage
from genretag.training.labelled_posters import FoundPosters, LabelledPosters
from genretag.training.training_ids import among, read_training_ids

logger = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """A bundle to be measured, and where it is."""

    location: str
    bundle: Bundle


def choose_posters(
    found: FoundPosters, candidates: Sequence[Candidate], settings: EvaluateSettings, storage: Storage
) -> tuple[LabelledPosters, LabelledPosters]:
    """The posters to measure the candidates on, and the others; with the labels that all candidates know.

    With `--split test` these are the posters in the test split of every candidate. Raises `UsageError` where there
    are none, or where a candidate was trained on some of them, unless `include_training`.
    """
    labels = common_labels(candidates)
    known = _with_any(found, labels)
    everyone = known.posters(known.labelled)
    chosen = np.ones(len(everyone), dtype=bool)
    if settings.split != "all":
        for rule in {_require_rule(candidate) for candidate in candidates}:
            part = set(known.split(rule, storage)[settings.split].labelled.ids)
            chosen &= np.array([poster in part for poster in everyone.labelled.ids], dtype=bool)
    if not chosen.any():
        raise UsageError(
            f"no labelled poster is in the {settings.split} split: pass --split all, or label more of them"
        )
    posters = everyone.where(chosen)
    if not settings.include_training:
        for candidate in candidates:
            _require_untrained(posters, candidate, storage)
    return posters, everyone.where(~chosen)


def common_labels(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """The labels that every candidate knows, in the first one's order. Raises `UsageError` for none."""
    first, *others = candidates
    labels = tuple(label for label in first.bundle.labels if all(label in c.bundle.labels for c in others))
    if not labels:
        raise UsageError("the two bundles have no label in common: evaluate each by itself")
    for candidate in candidates:
        if extra := [label for label in candidate.bundle.labels if label not in labels]:
            logger.warning("labels of %s left out, the other has none: %s", candidate.location, ", ".join(extra))
    return labels


def split_rule_of(candidate: Candidate) -> SplitRule | None:
    """How a bundle's training split its posters; none where it does not say.

    A bundle that says so only among its training settings is from before identical pictures were kept together.
    """
    facts = candidate.bundle.facts
    if "split" in facts:
        return SplitRule(**facts["split"])
    training = facts.get("training", {})
    if not {"seed", "validation_share", "test_share"} <= training.keys():
        return None
    shares = training["validation_share"], training["test_share"]
    return SplitRule(training["seed"], *shares, identical_together=False)


def _with_any(found: FoundPosters, labels: Sequence[str]) -> FoundPosters:
    """The posters with at least one of the labels, and those labels only: as training leaves others out."""
    unknown = [label for label in labels if label not in found.labelled.labels]
    if len(unknown) == len(labels):
        raise UsageError(
            f"the CSV has none of the bundle's labels ({one_line(', '.join(labels), 100)}): its labels are "
            f"{one_line(', '.join(found.labelled.labels), 100)}"
        )
    if unknown:
        logger.warning("no poster has these labels of the bundle: %s", one_line(", ".join(unknown)))
    labelled = with_labels(found.labelled, labels)
    some = labelled.multi_hot.any(axis=1)
    if not some.all():
        logger.info("%d posters left out, none of the bundle's labels", int((~some).sum()))
    if not some.any():
        raise UsageError("no poster of the CSV has any of the bundle's labels: name the CSV that belongs to them")
    return FoundPosters(labelled.where(some), found.images)


def _require_rule(candidate: Candidate) -> SplitRule:
    rule = split_rule_of(candidate)
    if rule is None:
        raise UsageError(
            f"the bundle at {candidate.location} does not say how its posters were split: pass --split all"
        )
    return rule


def _require_untrained(posters: LabelledPosters, candidate: Candidate, storage: Storage) -> None:
    trained = int(trained_on(posters, candidate, storage).sum())
    if trained:
        raise UsageError(
            f"{candidate.location} was trained on {trained:,} of these {len(posters):,} posters, so its figures would "
            "tell nothing: choose --split test, or pass --include-training to see them all the same"
        )


def trained_on(posters: LabelledPosters, candidate: Candidate, storage: Storage) -> np.ndarray:
    """Which posters a candidate has learnt from: bool (N,)."""
    facts = candidate.bundle.facts
    if "training_ids" in facts:
        return among(posters.labelled.ids, read_training_ids(candidate.location, facts["training_ids"], storage))
    rule = split_rule_of(candidate)
    if rule is None:
        raise UsageError(
            f"the bundle at {candidate.location} does not say what it was trained on: pass --include-training to "
            "evaluate it all the same"
        )
    logger.warning(
        "%s has no list of its training posters: taken for them are those that its split by the id would train on",
        candidate.location,
    )
    shares = {"validation": rule.validation_share, "test": rule.test_share}
    return np.array([split_of(poster, seed=rule.seed, **shares) == "train" for poster in posters.labelled.ids])
