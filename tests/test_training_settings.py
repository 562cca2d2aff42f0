"""Settings of training: a number or range of workers, precision by device, and learning rate by batch size."""

import numpy as np
import pytest

from genretag.errors import UsageError
from genretag.training.settings import TrainSettings
from genretag.training.worker import rate_factor, with_scaled_rates


@pytest.mark.parametrize(("workers", "fewest", "most"), [(2, 2, 2), ("2", 2, 2), ("1..4", 1, 4), ("3..3", 3, 3)])
def test_workers_are_a_number_or_a_range(workers, fewest, most):
    assert TrainSettings(workers=workers, batch_size=48).worker_range == (fewest, most)


@pytest.mark.parametrize("workers", [0, "0..2", "4..1", "few", "1..", "1...4", "-1"])
def test_invalid_numbers_of_workers_are_refused(workers):
    with pytest.raises(UsageError, match=r"workers must be a number of at least 1, or a range such as 1\.\.4"):
        TrainSettings(workers=workers)


def test_a_fixed_number_of_workers_shares_a_batch_evenly_and_a_range_nearly_so():
    with pytest.raises(UsageError, match="cannot be shared by 3 workers"):
        TrainSettings(workers=3)
    with pytest.raises(UsageError, match="cannot be shared by 40 workers"):
        TrainSettings(workers="1..40")
    assert TrainSettings(workers="1..4").batch_size == 32, "the batch stays, however many workers there are"


@pytest.mark.parametrize(
    ("gpu", "setting", "policy"),
    [
        (False, "auto", "float32"),
        (True, "auto", "mixed_bfloat16"),
        (False, "on", "mixed_bfloat16"),
        (True, "off", "float32"),
    ],
)
def test_the_default_precision_depends_on_the_device(gpu, setting, policy):
    assert TrainSettings(gpu=gpu, mixed_precision=setting).dtype_policy == policy


def test_in_mixed_precision_logits_and_weights_stay_float32_and_logits_agree():
    import keras

    from genretag.model.networks import build_network

    exact = build_network("lite0", 3, 96, 64)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = build_network("lite0", 3, 96, 64)
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(exact.get_weights())
    poster = np.random.default_rng(0).integers(0, 256, (1, 96, 64, 3), dtype=np.uint8)

    logits = mixed(poster)

    assert logits.dtype == "float32"
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    np.testing.assert_allclose(logits, exact(poster), atol=0.02)


def test_learning_rates_grow_with_the_batch_by_the_rule_of_the_optimiser():
    assert rate_factor(32) == rate_factor(32, "sgd") == 1
    assert rate_factor(128) == 2
    assert rate_factor(128, "sgd") == 4


def test_learning_rates_are_not_scaled_at_the_default_batch_or_on_request():
    assert with_scaled_rates(TrainSettings()) == TrainSettings()
    assert with_scaled_rates(TrainSettings(batch_size=128, scale_learning_rate=False)).learning_rate == 2e-4
    scaled = with_scaled_rates(TrainSettings(batch_size=128))
    assert (scaled.learning_rate, scaled.head_learning_rate) == pytest.approx((4e-4, 4e-3))
