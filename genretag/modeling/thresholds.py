"""From which probability on a label is predicted: tuned for F1 on validation data, rare labels held back.

A label with few positives has a noisy best threshold, so each label's own best is shrunk towards the one
threshold that is best for all labels together, by how many positives there are to trust.
"""

import numpy as np

TRUSTED_POSITIVES = 50  # a label with this many positives stands half way between its own and the global one


def global_threshold(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The one threshold with the best micro F1: uint8 (N, L), float (N, L) -> float."""
    return best_f1_threshold(truth.ravel(), probabilities.ravel())


def balanced_thresholds(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Each label's F1 threshold shrunk towards the global one: uint8 (N, L), float (N, L) -> float32 (L,)."""
    common = global_threshold(truth, probabilities)
    positives = truth.sum(axis=0)
    own = np.array(
        [
            best_f1_threshold(truth[:, label], probabilities[:, label]) if positives[label] else common
            for label in range(truth.shape[1])
        ]
    )
    trust = positives / (positives + TRUSTED_POSITIVES)
    return (trust * own + (1 - trust) * common).astype(np.float32)


def best_f1_threshold(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The threshold with the best F1 of one label: half way between the two scores that it parts."""
    order = np.argsort(-probabilities, kind="stable")
    scores, hits = probabilities[order], np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + hits[-1])
    f1[:-1][scores[:-1] == scores[1:]] = -1.0  # equal scores cannot be parted
    best = int(np.argmax(f1))
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float((scores[best] + below) / 2)
