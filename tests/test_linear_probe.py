"""Linear probe: the head is a logistic regression on frozen features, and its out-of-fold probabilities teach."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression

from genretag.commands.train import train
from genretag.errors import UsageError
from genretag.model.bundle import load_bundle
from genretag.model.engines import open_engine
from genretag.model.metrics import macro_map
from genretag.runtime.session import Session
from genretag.scoring.labelled_posters import LabelledPosters
from genretag.scoring.pipeline import score_labelled
from genretag.scoring.training_ids import Candidate
from genretag.storage import Storage
from genretag.training.distillation import with_targets
from genretag.training.linear_probe import FOLDS, fit_head, folds_of
from genretag.training.out_of_fold import OUT_OF_FOLD, out_of_fold_of
from genretag.training.settings import TrainSettings
from genretag.training.splits import read_labelled_posters

PROBE = TrainSettings(
    height=96, width=64, linear_probe=True, epochs=0, batch_size=16, min_positives=5, validation_share=0.25
)


@pytest.fixture
def features():
    """Return features of two very different ranges, and two labels that depend on them."""
    random = np.random.default_rng(0)
    values = random.normal(size=(400, 6)) * [1, 100, 0.01, 1, 1, 1] + [0, 50, 0, 3, 0, 0]
    logits = np.stack([values[:, 0] + (values[:, 1] - 50) / 100, 100 * values[:, 2] - 1], axis=1)
    truth = random.random(logits.shape) < 1 / (1 + np.exp(-logits))
    return values.astype(np.float32), truth.astype(np.float32)


def test_the_head_is_the_logistic_regression_of_scikit_learn(features):
    values, truth = features
    standard = (values - values.mean(axis=0)) / values.std(axis=0)

    head, _ = fit_head(values, truth, penalty=0.1)

    for label in range(truth.shape[1]):
        reference = LogisticRegression(C=1 / (0.1 * len(values)), tol=1e-8, max_iter=1000).fit(
            standard, truth[:, label]
        )
        np.testing.assert_allclose(head.logits(values)[:, label], reference.decision_function(standard), atol=5e-3)


def test_targets_may_be_shares_and_a_strong_penalty_leaves_the_prevalence(features):
    values, truth = features

    soft, _ = fit_head(values, truth * 0.8 + 0.1, penalty=0.01)
    null, _ = fit_head(values, truth, penalty=1e6)

    assert soft.logits(values).max() < 4, "no target is above .9"
    np.testing.assert_allclose(1 / (1 + np.exp(-null.logits(values))), np.tile(truth.mean(axis=0), (400, 1)), atol=1e-3)


def test_the_same_picture_is_always_in_the_same_fold_and_folds_are_equally_large():
    values = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    twins = np.concatenate([values, values[:100]])

    folds = folds_of(twins)

    assert (folds[500:] == folds[:100]).all()
    assert np.bincount(folds_of(values)).tolist() == [500 // FOLDS] * FOLDS


@pytest.mark.slow
class TestTraining:
    """A probe of EfficientNet-Lite0 on drawn posters."""

    @pytest.fixture(scope="class")
    def place(self, ray_cluster, poster_folder, tmp_path_factory):
        output = str(tmp_path_factory.mktemp("probe") / "model")
        labels = str(poster_folder.parent / "labels.csv")
        train(labels, str(poster_folder), output, PROBE, Session(quiet=True))
        return output

    @pytest.fixture(scope="class")
    def splits(self, poster_folder):
        return read_labelled_posters(str(poster_folder.parent / "labels.csv"), str(poster_folder), PROBE, Storage())

    def test_the_bundle_beats_the_null_model_and_its_engines_agree(self, place, splits, ray_cluster):
        bundle = load_bundle(place, Storage())
        pixels = np.random.default_rng(0).integers(0, 256, (4, 96, 64, 3), dtype=np.uint8)

        native, by_keras = (
            open_engine(name, bundle, 4, 1, "float32").predict(pixels) for name in ("openvino", "tensorflow")
        )
        truth, said = score_labelled(splits.test, bundle, ray_cluster, Storage())

        np.testing.assert_allclose(native, by_keras, atol=1e-3)
        assert macro_map(truth, said) > 1.5 * truth.mean(axis=0).mean()
        assert bundle.facts["training"]["linear_probe"] is True

    def test_a_teacher_tells_what_it_said_of_posters_that_it_did_not_learn(self, place, splits, ray_cluster):
        teacher = Candidate(place, load_bundle(place, Storage()))
        own = out_of_fold_of(splits.train, teacher, Storage())
        others = out_of_fold_of(splits.validation, teacher, Storage())
        truth, learned = score_labelled(splits.train, teacher.bundle, ray_cluster, Storage())

        taught = with_targets(splits.train, [teacher], 1.0, ray_cluster, Storage()).targets

        assert np.isnan(others).all()
        np.testing.assert_allclose(taught, own, atol=1e-5)
        assert macro_map(truth, own) < macro_map(truth, learned), "it does not know the answers"
        assert pq.read_table(f"{place}/{OUT_OF_FOLD}").num_rows == len(splits.train)

    def test_a_record_of_another_bundle_is_refused(self, place, splits, tmp_path):
        teacher = Candidate(str(tmp_path), load_bundle(place, Storage()))
        posters: LabelledPosters = splits.train

        with pytest.raises(UsageError, match=f"the bundle's {OUT_OF_FOLD} cannot be read"):
            out_of_fold_of(posters, teacher, Storage())
        (tmp_path / OUT_OF_FOLD).write_bytes(b"something else")
        with pytest.raises(UsageError, match="is not the bundle's"):
            out_of_fold_of(posters, teacher, Storage())

    def test_fine_tuning_can_begin_with_the_head_of_a_probe(self, poster_folder, tmp_path, ray_cluster):
        labels, settings = str(poster_folder.parent / "labels.csv"), replace(PROBE, epochs=1, unfreeze=0.2, workers=1)

        bundle = train(labels, str(poster_folder), str(tmp_path / "tuned"), settings, Session(quiet=True))

        assert len(bundle.labels) >= 2
        assert "out_of_fold" not in bundle.facts

    def test_a_probe_of_random_features_is_refused(self, poster_folder, tmp_path, command):
        code, _, said = command(
            *("train", "--labels", poster_folder.parent / "labels.csv", "--images", poster_folder, "--linear-probe"),
            *("--backbone", "MobileNetV2", "--weights", "random", "--height", "64", "--width", "64"),
            *("--min-positives", "5", "--batch-size", "16", "--output", tmp_path / "model"),
        )

        assert code == 2
        assert said.splitlines()[-1].endswith(
            "a linear probe needs a backbone with pretrained weights, not MobileNetV2"
        )


@pytest.mark.slow
def test_a_network_of_keras_trains_from_random_weights_and_all_engines_agree(ray_cluster, poster_folder, tmp_path):
    settings = TrainSettings(
        backbone="EfficientNetV2B0",
        weights="random",
        height=64,
        width=48,
        workers=1,
        epochs=1,
        head_epochs=1,
        unfreeze=0.5,
        batch_size=16,
        min_positives=5,
    )
    place = str(tmp_path / "model")
    train(str(poster_folder.parent / "labels.csv"), str(poster_folder), place, settings, Session(quiet=True))
    bundle = load_bundle(place, Storage())
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 48, 3), dtype=np.uint8)

    native, by_keras = (
        open_engine(name, bundle, 4, 1, "float32").predict(pixels) for name in ("openvino", "tensorflow")
    )

    np.testing.assert_allclose(native, by_keras, atol=1e-3)
