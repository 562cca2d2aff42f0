"""Losses computed by hand, for one poster with a present label (p = 1/2) and an absent label (p = 3/4)."""

import numpy as np
import pytest

from genretag.model.losses import LOSSES, build_loss

TARGETS = np.array([[1, 0]], dtype=np.float32)
LOGITS = np.array([[0, np.log(3)]], dtype=np.float32)
LN2 = np.log(2)


def value(name, targets=TARGETS, logits=LOGITS, **options):
    return np.asarray(build_loss(name, **options)(targets, logits))


def test_cross_entropy():
    assert value("bce") == pytest.approx([(LN2 + 2 * LN2) / 2])


def test_focal_loss_gives_confident_predictions_less_weight():
    assert value("focal") == pytest.approx([(0.5**2 * LN2 + 0.75**2 * 2 * LN2) / 2], rel=1e-5)


def test_asymmetric_loss():
    absent = 0.7**4 * -np.log(0.3)  # 3/4 minus the margin of .05
    assert value("asymmetric") == pytest.approx([(0.5 * LN2 + absent) / 2])
    assert value("asymmetric", gamma_positive=0, gamma_negative=2, margin=0.25) == pytest.approx(
        [(LN2 + 0.5**2 * LN2) / 2]
    )


def test_an_absent_label_below_the_margin_costs_nothing():
    assert value("asymmetric", np.zeros((1, 2)), np.full((1, 2), -3.0, dtype=np.float32)) == [0], "p = .047"


def test_asymmetric_loss_without_asymmetry_is_cross_entropy():
    logits = np.random.default_rng(0).normal(scale=4, size=(5, 3)).astype(np.float32)
    targets = (logits > 1).astype(np.float32)

    plain = value("asymmetric", targets, logits, gamma_positive=0, gamma_negative=0, margin=0)

    np.testing.assert_allclose(plain, value("bce", targets, logits), rtol=1e-4)


def test_each_labels_loss_is_weighed():
    assert value("bce", label_weights=np.array([0.5, 1.5])) == pytest.approx([(0.5 * LN2 + 1.5 * 2 * LN2) / 2])
    assert value("focal", label_weights=np.array([2.0, 0.0])) == pytest.approx([2 * 0.25 * LN2 / 2], rel=1e-5)


def test_smoothed_targets_lie_nearer_to_one_half():
    import keras

    expected = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1, reduction=None)(TARGETS, LOGITS)

    assert value("bce", label_smoothing=0.1) == pytest.approx(np.asarray(expected))
    assert value("bce", label_smoothing=0.1) == pytest.approx([(LN2 - 0.05 * np.log(0.75) - 0.95 * np.log(0.25)) / 2])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("options", [{}, {"gamma_positive": 0.0, "gamma_negative": 1.0, "margin": 0.0}])
def test_gradients_stay_finite_however_sure_the_network_is(name, options):
    import tensorflow as tf

    logits = tf.Variable([[0.0, 200.0, -200.0], [0.0, -200.0, 200.0]])
    with tf.GradientTape() as tape:
        losses = build_loss(name, **options)(tf.constant([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), logits)

    assert losses.shape == (2,)
    assert np.isfinite(losses.numpy()).all()
    assert np.isfinite(tape.gradient(losses, logits).numpy()).all()
