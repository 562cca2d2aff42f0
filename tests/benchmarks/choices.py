"""Compare each setting of `genretag train` with its alternatives at equal cost, to check the defaults.

    python tests/benchmarks/choices.py --labels train.csv --images images [--json FILE] [--only focal crop]

Trains a smaller version of the default recipe (192 x 128 pixels, an epoch of the head, two of all layers) once per
choice, on the same posters. Each choice is measured on validation posters, a quarter of all; test posters are not used.
The difference from the default is printed with a paired 95 % bootstrap interval over posters. The default with two
other seeds is the null: differences that are not larger than theirs are chance. Probabilities of one half of the
posters are calibrated on the other half.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from genretag.data.splits import Splits
from genretag.evaluation.measure import ScoredPosters, compare, measure
from genretag.model.calibration import choose_calibration, sigmoid
from genretag.model.networks import build_network
from genretag.runtime.ray_session import Cluster, ray_session
from genretag.runtime.session import Session
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.reader import Poster, PosterReader
from genretag.storage import Storage
from genretag.training.fit import fit
from genretag.training.settings import TrainSettings
from genretag.training.splits import read_labelled_posters

DEFAULT = "default"
SETTINGS = TrainSettings(height=192, width=128, head_epochs=1, epochs=2, validation_share=0.25)
SQUARE = {"height": 156, "width": 156}  # about as many pixels as 192 x 128
CHOICES: dict[str, dict] = {
    DEFAULT: {},
    "seed 1": {"seed": 1},
    "seed 2": {"seed": 2},
    "asymmetric loss": {"loss": "asymmetric"},
    "focal loss": {"loss": "focal"},
    "label weights sqrt": {"label_weights": "sqrt"},
    "balanced sampling": {"balanced_sampling": True},
    "label smoothing .05": {"label_smoothing": 0.05},
    "no flip": {"flip": False},
    "no crop, no colour": {"min_crop": 1.0, "colour": 0.0},
    "no moving average": {"average_momentum": 0.0},
    "portrait, letterbox": {"resize": "letterbox"},
    "portrait, crop": {"resize": "crop"},
    "square, squash": SQUARE,
    "square, letterbox": {**SQUARE, "resize": "letterbox"},
}
COMPARED = ("macro_map", "micro_ap", "bce")


def main() -> None:
    """Train each choice, measure it, and print a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--only", nargs="*", default=list(CHOICES), help="these choices, beside the default")
    parser.add_argument("--json", type=Path, help="keeps all figures")
    options = parser.parse_args()
    splits = read_labelled_posters(options.labels, options.images, SETTINGS, Storage())
    prevalence = splits.train.labelled.multi_hot.mean(axis=0)
    print(f"{len(splits.train):,} posters to train on, {len(splits.validation):,} to measure on")
    print("| choice | posters/s | macro mAP | - default | micro AP | - default | BCE | - default |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    kept, default = {}, None
    for name in dict.fromkeys([DEFAULT, *options.only]):
        settings = replace(SETTINGS, **CHOICES[name])
        said, rate = _trained(splits, settings)
        measured = measure(said, prevalence, 2000, 0)
        default = default or measured
        differences = compare(measured, default)
        kept[name] = {f: {"figure": vars(measured.figures[f]), "difference": vars(differences[f])} for f in COMPARED}
        cells = [f"{measured.figures[f].value:.4f} | {_signed(differences[f])}" for f in COMPARED]
        print(f"| {name} | {rate:.0f} | {' | '.join(cells)} |", flush=True)
        if options.json:
            options.json.write_text(json.dumps(kept, indent=1, default=str))


def _trained(splits: Splits[LabelledPosters], settings: TrainSettings) -> tuple[ScoredPosters, float]:
    """Train with these settings. Return the answers on validation posters, and the training rate in posters/s."""
    session = Session(quiet=True)
    with tempfile.TemporaryDirectory() as folder, ray_session(session) as cluster:
        fitted = fit(splits, settings, session, cluster, folder)
        truth, logits = _answers(fitted.weights, splits.validation, settings, cluster)
    probabilities = np.empty_like(logits)
    for half in (0, 1):
        calibration = choose_calibration(truth[1 - half :: 2], logits[1 - half :: 2])
        probabilities[half::2] = sigmoid(logits[half::2] * calibration.slope + calibration.offset)
    return ScoredPosters(truth, probabilities, {}), fitted.history[-1]["posters_per_s"]


def _answers(
    weights: list[np.ndarray], posters: LabelledPosters, settings: TrainSettings, cluster: Cluster
) -> tuple[np.ndarray, np.ndarray]:
    """Return the truth, uint8 (N, L), and the logits, float64 (N, L), of the posters that can be read."""
    network = build_network(settings.backbone, len(posters.labelled.labels), settings.height, settings.width)
    network.set_weights(weights)
    read = PosterReader(Storage(), settings.rule, 2 * int(cluster.cpus)).read_many(posters.uris)
    readable = np.array([isinstance(poster, Poster) for poster in read])
    images = np.stack([poster.image.pixels for poster in read if isinstance(poster, Poster)])
    logits = network.predict(images, batch_size=32, verbose=0).astype(np.float64)
    return posters.labelled.multi_hot[readable], logits


def _signed(difference) -> str:
    return f"{difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"


if __name__ == "__main__":
    main()
