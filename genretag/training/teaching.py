"""Distillation: a network learns what other bundles, its teachers, say of the training posters, beside their labels.

A probability tells more of a poster than yes or no does, and what several networks or one of more pixels know comes to
fit into one that is quicker (Hinton et al. 2015, arXiv:1503.02531).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from genretag.bundle import load_bundle
from genretag.display import QUIET, Display
from genretag.errors import UsageError, one_line
from genretag.evaluation.choosing import Candidate, trained_on
from genretag.modeling.calibration import logits_of, sigmoid
from genretag.ray_session import Cluster
from genretag.storage import Storage, resolve
from genretag.training.evaluation import score_posters
from genretag.training.labelled_posters import LabelledPosters


def load_teachers(places: Sequence[str], splits: dict[str, LabelledPosters], storage: Storage) -> list[Candidate]:
    """The bundles at these places.

    Raises `UsageError` where one lacks a label, or has learnt from posters that are to choose or to measure here.
    """
    teachers = [Candidate(resolve(place), load_bundle(place, storage)) for place in places]
    for teacher in teachers:
        known = teacher.bundle.labels
        if missing := [label for label in splits["train"].labelled.labels if label not in known]:
            raise UsageError(
                f"the teacher at {teacher.location} does not know {one_line(', '.join(missing), 100)}: "
                "choose one that has all the labels of the CSV"
            )
        for name in ("validation", "test"):
            if seen := int(trained_on(splits[name], teacher, storage).sum()):
                raise UsageError(
                    f"the teacher at {teacher.location} was trained on {seen:,} of the {len(splits[name]):,} "
                    f"{name} posters, so the figures would tell nothing: choose one with the same split"
                )
    return teachers


def with_targets(
    posters: LabelledPosters,
    teachers: Sequence[Candidate],
    share: float,
    cluster: Cluster,
    storage: Storage,
    display: Display = QUIET,
) -> LabelledPosters:
    """The posters with targets: `share` of them the teachers' probabilities (the mean of their logits), the rest the
    labels; all of them the labels where a teacher cannot read the poster.
    """
    logits = np.zeros(posters.labelled.multi_hot.shape)
    display.phase("asking the teachers", len(posters) * len(teachers))
    for teacher in teachers:
        columns = [teacher.bundle.labels.index(label) for label in posters.labelled.labels]
        _, probabilities = score_posters(posters, teacher.bundle, cluster, storage, display)
        logits += logits_of(probabilities[:, columns]) / len(teachers)
    truth = posters.labelled.multi_hot
    taught = (1 - share) * truth + share * sigmoid(logits)
    return replace(posters, targets=np.where(np.isnan(taught), truth, taught).astype(np.float32))
