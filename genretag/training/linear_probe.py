"""Linear probe: fit only the head of a network, on features that its frozen backbone computes once.

The backbone sees each poster once, without augmentation. Logistic regression with an L2 penalty is fitted to the
standardised features, one regression per label. The validation posters choose the penalty.

If the bundle will be quantized, the features are those of the quantized backbone. So the head knows the rounding errors
of int8. It is the same head in all engines.
"""

import hashlib
import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from genretag.data.splits import Splits
from genretag.errors import UsageError
from genretag.model.bundle import Bundle
from genretag.model.calibration import sigmoid
from genretag.model.metrics import binary_cross_entropy, macro_map
from genretag.model.networks import HEAD, build_network
from genretag.runtime.display import Display
from genretag.runtime.ray_session import Cluster
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.pipeline import score_posters
from genretag.storage import Storage
from genretag.training.int8 import calibration_images, int8_files
from genretag.training.make_bundle import network_files
from genretag.training.settings import TrainSettings

logger = logging.getLogger(__name__)

PENALTIES = tuple(float(value) for value in 10.0 ** np.arange(1, -4.1, -0.25))  # from strong to weak
WORSE_BEFORE_THE_END = 4  # weaker penalties to try after the best one
ITERATIONS = 500
SMALLEST_DEVIATION = 1e-6
FOLDS = 5


@dataclass(frozen=True)
class Head:
    """A fitted head. `kernel` is float32 (features, labels) and `bias` float32 (labels,)."""

    kernel: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return the logits of features, float32 (N, features) -> float32 (N, labels)."""
        return features @ self.kernel + self.bias


@dataclass(frozen=True)
class Probe:
    """Result of a linear probe: the head, and what it says of training posters that it was not fitted on.

    `out_of_fold`, float32 (N, labels), are logits for the N posters `train`. For each of `FOLDS` parts of the training
    posters, a head was fitted on the other parts. The same picture is always in the same part.
    """

    head: Head
    train: LabelledPosters
    out_of_fold: np.ndarray


def probe(
    features: list[np.ndarray],
    splits: Splits[LabelledPosters],
    settings: TrainSettings,
    cluster: Cluster,
    storage: Storage,
    display: Display,
) -> Probe:
    """Fit a head to the training posters. `features` are the weights of the backbone, as in `pretrained_weights`.

    Raises `UsageError` if fewer than `FOLDS` training posters or no validation posters can be read.
    """
    backbone = _backbone_bundle(features, settings)
    if settings.epochs == 0:  # the backbone stays as it is, so that its quantized form is the one that will predict
        display.phase("quantizing")
        images = calibration_images(splits.train, settings.rule, storage)
        backbone = replace(backbone, files={**backbone.files, **int8_files(backbone.files, images)})
    display.phase("computing features", len(splits.train) + len(splits.validation))
    found = []
    for posters in (splits.train, splits.validation):
        readable, values = score_posters(posters, backbone, cluster, storage, display)
        found.append((posters.where(readable), values[readable]))
    (train, learned), (validation, validated) = found
    if len(train) < FOLDS or not len(validation):
        raise UsageError(
            f"only {len(train)} training and {len(validation)} validation posters can be read, but at least {FOLDS} "
            "and 1 are needed"
        )
    display.phase("fitting the head")
    targets = train.labelled.multi_hot.astype(np.float32) if train.targets is None else train.targets
    targets = targets * (1 - settings.label_smoothing) + settings.label_smoothing / 2
    head, penalty = _best_head(learned, targets, validated, validation.labelled.multi_hot)
    return Probe(head, train, _out_of_fold(learned, targets, penalty))


def _backbone_bundle(features: list[np.ndarray], settings: TrainSettings) -> Bundle:
    """Return a bundle whose outputs are the features of the backbone instead of probabilities."""
    import keras

    network = build_network(settings.backbone, 1, settings.height, settings.width)
    network.set_weights([*features, *network.get_layer(HEAD).get_weights()])
    output = keras.layers.Activation("linear", name="as_they_are")(network.get_layer(HEAD).input)
    files = network_files(keras.Model(network.input, output))
    labels = tuple(f"feature {number}" for number in range(output.shape[-1]))
    return Bundle(labels=labels, thresholds={}, rule=settings.rule, backbone=settings.backbone, files=files)


def _best_head(
    features: np.ndarray, targets: np.ndarray, validated: np.ndarray, truth: np.ndarray
) -> tuple[Head, float]:
    """Return the head with the least cross-entropy on the validation posters, and its penalty.

    `features`, float32 (N, F), and `targets`, float32 (N, L), are of the training posters. `validated`, float32 (M, F),
    and `truth`, uint8 (M, L), are of the validation posters. The penalties become weaker until several in a row are
    worse than the best. Cross-entropy decides, because the mAP of a rare label depends on few posters.
    """
    best: tuple[float, Head, float] | None = None  # cross-entropy, head, penalty
    weights, worse = None, 0
    for penalty in PENALTIES:
        head, weights = fit_head(features, targets, penalty, weights)
        logits = head.logits(validated)
        loss = binary_cross_entropy(truth, sigmoid(logits))
        logger.info(
            "penalty %.3g: on validation posters BCE %.4f, macro mAP %.4f", penalty, loss, macro_map(truth, logits)
        )
        if best is None or loss < best[0]:
            best, worse = (loss, head, penalty), 0
        else:
            worse += 1
        if worse == WORSE_BEFORE_THE_END:
            break
    if best is None:
        raise UsageError("no penalty could be tried")
    return best[1:]


def fit_head(
    features: np.ndarray, targets: np.ndarray, penalty: float, start: np.ndarray | None = None
) -> tuple[Head, np.ndarray]:
    """Fit one logistic regression per label, and return the head and the fitted parameters, float64 (F + 1, L).

    `features` is float32 (N, F), and `targets` float32 (N, L) with values from 0 to 1. The loss is the mean over the
    posters of the sum of the labels' cross-entropy, plus `penalty` / 2 times the squared weights of the standardised
    features. The biases have no penalty. `start` are parameters to begin with; None begins with the labels' prevalence.
    """
    from scipy.optimize import minimize

    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = np.maximum(features.std(axis=0, dtype=np.float64), SMALLEST_DEVIATION).astype(np.float32)
    standard = (features - mean) / deviation
    count, labels = targets.shape
    shape = (features.shape[1] + 1, labels)
    if start is None:
        share = np.clip(targets.mean(axis=0), 1e-6, 1 - 1e-6)
        start = np.zeros(shape)
        start[-1] = np.log(share / (1 - share))

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = flat.reshape(shape).astype(np.float32)
        kernel, logits = parameters[:-1], standard @ parameters[:-1] + parameters[-1]
        error = (sigmoid(logits) - targets) / count
        value = float((np.logaddexp(0, logits) - targets * logits).sum(dtype=np.float64) / count)
        slopes = np.concatenate([standard.T @ error + penalty * kernel, error.sum(axis=0, keepdims=True)])
        penalised = value + penalty / 2 * float((kernel.astype(np.float64) ** 2).sum())
        return penalised, slopes.ravel().astype(np.float64)

    found: Any = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    parameters = found.x.reshape(shape)
    kernel = parameters[:-1] / deviation[:, np.newaxis]
    bias = parameters[-1] - mean.astype(np.float64) @ kernel
    return Head(kernel.astype(np.float32), bias.astype(np.float32)), parameters


def _out_of_fold(features: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    """Return logits, float32 (N, L), of heads that were fitted without the poster's fold."""
    folds, logits = folds_of(features), np.empty(targets.shape, dtype=np.float32)
    for fold in range(FOLDS):
        inside = folds == fold
        if inside.any():
            head, _ = fit_head(features[~inside], targets[~inside], penalty)
            logits[inside] = head.logits(features[inside])
    return logits


def folds_of(features: np.ndarray) -> np.ndarray:
    """Return the fold of each poster, int (N,), from 0 to `FOLDS` - 1. Posters with equal features have equal folds.

    A hash of the features decides, so the order of the posters does not matter.
    """
    digests = (hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in features)
    _, groups = np.unique(np.frombuffer(b"".join(digests), dtype=">u8"), return_inverse=True)
    return groups % FOLDS
