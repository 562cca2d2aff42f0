"""Select the posters to measure a bundle on: posters that the bundle was not trained on.

With the setting `include_training`, a bundle may also be measured on posters that it was trained on.
"""

import logging
from collections.abc import Sequence

import numpy as np

from genretag.data.labels import with_labels
from genretag.data.splits import SplitRule
from genretag.errors import UsageError, one_line
from genretag.scoring.labelled_posters import FoundPosters, LabelledPosters, known_labels
from genretag.scoring.training_ids import Candidate, split_rule_of, trained_on
from genretag.settings import EvaluateSettings
from genretag.storage import Storage

logger = logging.getLogger(__name__)


def choose_posters(
    found: FoundPosters, candidates: Sequence[Candidate], settings: EvaluateSettings, storage: Storage
) -> tuple[LabelledPosters, LabelledPosters]:
    """Return the posters to measure the candidates (one or two bundles) on, and the other labelled posters.

    The returned posters have only the labels that all candidates know. Posters without any of these labels are left
    out. If `settings.split` is `test` or `validation`, a poster is measured if it is in that split of every candidate.
    With `all`, every poster is measured.

    Raises `UsageError` if no poster is left to measure on, or if the candidates share no label. Also raises
    `UsageError` if a candidate was trained on a poster to measure on, unless `settings.include_training` is set.
    """
    labels = common_labels(candidates)
    known = _with_any(found, labels)
    everyone = known.posters(known.labelled)
    chosen = np.ones(len(everyone), dtype=bool)
    if settings.split != "all":
        for rule in {_require_rule(candidate) for candidate in candidates}:
            part = set(known.split(rule, storage).parts()[settings.split].labelled.ids)
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
    """Return the labels that every candidate (bundle to measure) knows, in the order of the first candidate.

    The log names the labels that are left out. Raises `UsageError` if the candidates have no label in common.
    """
    first, *others = candidates
    labels = tuple(label for label in first.bundle.labels if all(label in c.bundle.labels for c in others))
    if not labels:
        raise UsageError("the two bundles have no label in common: evaluate each by itself")
    for candidate in candidates:
        if extra := [label for label in candidate.bundle.labels if label not in labels]:
            logger.warning(
                "labels of %s left out, the other bundle does not have them: %s", candidate.location, ", ".join(extra)
            )
    return labels


def _with_any(found: FoundPosters, labels: Sequence[str]) -> FoundPosters:
    """Return the posters that have at least one of `labels`. Remove all other labels from them.

    Raises `UsageError` if the CSV has none of the labels, or if no poster is left.
    """
    known = known_labels(found, labels)
    if unknown := [label for label in labels if label not in known]:
        logger.warning("no poster has these labels of the bundle: %s", one_line(", ".join(unknown)))
    labelled = with_labels(found.labelled, labels)
    some = labelled.multi_hot.any(axis=1)
    if not some.all():
        logger.info("%d posters left out, they have none of the bundle's labels", int((~some).sum()))
    if not some.any():
        raise UsageError("no poster of the CSV has any of the bundle's labels: name the CSV that belongs to them")
    return FoundPosters(labelled.where(some), found.images)


def _require_rule(candidate: Candidate) -> SplitRule:
    """Return the rule that divided the posters into training, validation and test when the bundle was trained.

    Raises `UsageError` if the bundle does not record the rule.
    """
    rule = split_rule_of(candidate)
    if rule is None:
        raise UsageError(
            f"the bundle at {candidate.location} does not say how its posters were split: pass --split all"
        )
    return rule


def _require_untrained(posters: LabelledPosters, candidate: Candidate, storage: Storage) -> None:
    """Raise `UsageError` if a bundle was trained on one of the posters, or does not record what it was trained on."""
    trained = int(trained_on(posters, candidate, storage).sum())
    if trained:
        raise UsageError(
            f"{candidate.location} was trained on {trained:,} of these {len(posters):,} posters, so its figures would "
            "tell nothing: choose --split test, or pass --include-training to see them all the same"
        )
