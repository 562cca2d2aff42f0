"""Distillation: a network learns from the probabilities of other bundles, its teachers, as well as from the labels.

A probability says more about a poster than yes or no. So a small, fast network can learn from several networks, or from
a network with a larger input image (Hinton et al. 2015, arXiv:1503.02531).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from genretag.data.splits import Splits
from genretag.errors import UsageError, one_line
from genretag.model.bundle import load_bundle
from genretag.model.calibration import logits_of, sigmoid
from genretag.runtime.display import QUIET, Display
from genretag.runtime.ray_session import Cluster
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.pipeline import score_posters
from genretag.scoring.training_ids import Candidate, trained_on
from genretag.storage import Storage, resolve
from genretag.training.out_of_fold import out_of_fold_of


def load_teachers(places: Sequence[str], splits: Splits[LabelledPosters], storage: Storage) -> list[Candidate]:
    """Load the bundles at `places`, in order. If `places` is empty, return an empty list.

    `splits` are the posters of the new run. Raises `UsageError` if a bundle cannot be loaded, or if it lacks one of the
    posters' labels. Also raises `UsageError` if a bundle was trained on validation or test posters of this run, or does
    not record what it was trained on.
    """
    teachers = [Candidate(resolve(place), load_bundle(place, storage)) for place in places]
    for teacher in teachers:
        known = teacher.bundle.labels
        if missing := [label for label in splits.train.labelled.labels if label not in known]:
            raise UsageError(
                f"the teacher at {teacher.location} does not know {one_line(', '.join(missing), 100)}: "
                "choose one that has all the labels of the CSV"
            )
        for name in ("validation", "test"):
            if seen := int(trained_on(splits.parts()[name], teacher, storage).sum()):
                raise UsageError(
                    f"the teacher at {teacher.location} was trained on {seen:,} of the {len(splits.parts()[name]):,} "
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
    """Return the posters with `targets`, float32 (N, L): a mix of the teachers' probabilities and the labels.

    A target is `share` times the teachers' probability plus (1 - `share`) times the label. The teachers' probability is
    the sigmoid of the mean of their logits. If a teacher recorded out-of-fold probabilities of a poster, they count
    instead of its prediction. If a poster's image cannot be read, the poster's targets are its labels. `teachers` must
    not be empty. Raises `UsageError` if a teacher's record cannot be read.
    """
    logits = np.zeros(posters.labelled.multi_hot.shape)
    display.phase("asking the teachers", len(posters) * len(teachers))
    for teacher in teachers:
        columns = [teacher.bundle.labels.index(label) for label in posters.labelled.labels]
        probabilities = out_of_fold_of(posters, teacher, storage)
        asked = np.isnan(probabilities[:, 0])
        display.advance(int(len(posters) - asked.sum()))
        if asked.any():
            _, predicted = score_posters(posters.where(asked), teacher.bundle, cluster, storage, display)
            probabilities[asked] = predicted
        logits += logits_of(probabilities[:, columns]) / len(teachers)
    truth = posters.labelled.multi_hot
    taught = (1 - share) * truth + share * sigmoid(logits)
    return replace(posters, targets=np.where(np.isnan(taught), truth, taught).astype(np.float32))
