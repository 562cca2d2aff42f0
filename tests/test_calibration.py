"""Calibration chooses one temperature, or Platt scaling per label if that is better on posters it was not fitted on."""

import numpy as np
import pytest

from genretag.model import calibration
from genretag.model.metrics import expected_calibration_error


def drawn(posters=4000, labels=5, seed=0):
    """Draw logits and a truth for which the sigmoid of the logits is perfectly calibrated."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-1.0, 1.5, size=(posters, labels))
    return (generator.random(logits.shape) < calibration.sigmoid(logits)).astype(np.uint8), logits


def test_a_temperature_above_one_is_found_if_the_network_is_overconfident():
    truth, logits = drawn()

    assert calibration.fit_temperature(truth, logits) == pytest.approx(1.0, abs=0.05)
    assert calibration.fit_temperature(truth, logits * 3) == pytest.approx(3.0, abs=0.15)


def test_platt_finds_the_slope_and_the_offset_of_each_label():
    truth, logits = drawn()
    shifted = logits * np.array([1.0, 2.0, 0.5, 1.0, 1.0]) + np.array([0.0, 0.0, 0.0, 1.0, -1.0])

    slope, offset = calibration.fit_platt(truth, shifted)

    assert slope == pytest.approx([1.0, 0.5, 2.0, 1.0, 1.0], abs=0.15)
    assert offset == pytest.approx([0.0, 0.0, 0.0, -1.0, 1.0], abs=0.15)


def test_platt_of_few_posters_stays_close_to_the_temperature_and_never_reverses_a_ranking():
    truth = np.array([[1, 0], [0, 0], [0, 0], [1, 0]], dtype=np.uint8)
    logits = np.array([[-2.0, 1.0], [1.0, -1.0], [2.0, 0.5], [-1.0, 2.0]])

    slope, offset = calibration.fit_platt(truth, logits)

    assert (slope > 0).all()
    assert np.abs(offset).max() < 0.5


def test_one_temperature_is_chosen_if_labels_differ_only_by_chance():
    truth, logits = drawn(posters=300, labels=20)

    chosen = calibration.choose_calibration(truth, logits * 2)

    assert chosen.method == "temperature"
    assert chosen.cross_entropy["temperature"] <= chosen.cross_entropy["platt"]
    assert chosen.slope == pytest.approx(np.full(20, 1 / chosen.temperature))
    assert chosen.temperature == pytest.approx(2.0, abs=0.2)
    assert not chosen.offset.any()
    assert chosen.facts().keys() == {"method", "temperature", "cross_validated_cross_entropy", "folds"}


def test_platt_is_chosen_if_labels_are_miscalibrated_differently_and_lowers_the_error():
    truth, logits = drawn(posters=1500)
    shifted = logits + np.array([1.0, -1.0, 0.0, 0.5, -0.5])

    chosen = calibration.choose_calibration(truth, shifted)
    calibrated = calibration.sigmoid(shifted * chosen.slope + chosen.offset)

    assert chosen.method == "platt"
    assert len(chosen.facts()["slope"]) == len(chosen.facts()["offset"]) == 5
    before = expected_calibration_error(truth, calibration.sigmoid(shifted))
    assert expected_calibration_error(truth, calibrated) < before
    assert chosen.undone(calibrated) == pytest.approx(calibration.sigmoid(shifted), abs=1e-9)


def test_logits_are_finite_for_probabilities_of_zero_and_one():
    assert np.isfinite(calibration.logits_of(np.array([[0.0, 1.0]], dtype=np.float32))).all()
    assert calibration.logits_of(np.array([[0.5]])) == pytest.approx(0.0)
