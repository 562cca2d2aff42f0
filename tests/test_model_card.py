"""Training writes a model card next to the bundle, and `genretag evaluate --html` writes a card to any location."""

from pathlib import Path

import numpy as np
import pytest

from genretag.model.bundle import load_bundle
from genretag.model.calibration import logits_of, sigmoid
from genretag.reports.card_figures import reliability, together, uncalibrated
from genretag.storage import Storage, join


def test_training_writes_a_card_that_does_not_belong_to_the_bundle(small_bundle):
    page = (Path(small_bundle) / "report.html").read_text()
    bundle = load_bundle(small_bundle, Storage())

    assert bundle.model_version in page
    assert "report.html" not in bundle.files
    for label in bundle.labels:
        assert f'<th scope="row">{label}</th>' in page
    for shown in ("validation macro mAP", "before calibration", "Worst", "data:image/webp", "data:image/png"):
        assert shown in page


def test_evaluate_writes_a_card_to_a_bucket(command, ray_cluster, small_bundle, poster_folder, bucket, storage):
    place = join(bucket, "cards", "small.html")

    code, out, err = command(
        "evaluate", small_bundle, "--labels", poster_folder.parent / "labels.csv", "--images", poster_folder,
        "--against", small_bundle, "--slice", "labels", "--bootstrap", "20", "--html", place,
        "--no-posters", "--quiet",
    )  # fmt: skip

    assert code == 0, err
    assert out.endswith(f"model card: {place}\n")
    page = bytes(storage.get(place).data).decode()
    assert "other model" in page
    assert "data:image/webp" not in page, "without posters"
    assert str(Path(small_bundle).parent) not in page, "it tells nobody's folders"
    assert "By <code>labels</code>" in page


def test_uncalibrated_returns_the_probabilities_before_calibration(small_bundle):
    bundle = load_bundle(small_bundle, Storage())
    raw = np.linspace(0.01, 0.99, 3 * len(bundle.labels)).reshape(3, -1)
    facts = bundle.facts["calibration"]
    slope, offset = (np.array(facts[name]) for name in ("slope", "offset")) if "slope" in facts else (
        1 / facts["temperature"], 0.0
    )  # fmt: skip

    assert uncalibrated(bundle, bundle.labels, sigmoid(slope * logits_of(raw) + offset)) == pytest.approx(raw, abs=1e-6)


def test_the_dots_of_a_calibrated_model_lie_on_the_diagonal():
    said = np.tile([0.25, 0.75], (400, 1))
    truth = np.zeros((400, 2), dtype=np.uint8)
    truth[:100, 0], truth[:300, 1] = 1, 1

    drawn = reliability(truth, said, None, size=100.0)

    assert [round(x + y, 1) for x, y, _ in drawn.after] == [100.0, 100.0]


def test_pairs_of_labels_that_are_predicted_too_often_are_named():
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]], dtype=np.uint8)
    predicted = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)

    pair = together(["Action", "Comedy", "War"], truth, predicted).furthest[0]

    assert (pair.names, pair.true, pair.predicted) == (("Action", "Comedy"), 0.25, 0.75)
