"""The network that trains on CPUs has other layers for pointwise convolutions, but learns and predicts the same."""

import numpy as np
import pytest

from genretag.model import networks as network
from genretag.model.backbones import Learning
from genretag.model.backbones.efficientnet_lite import load_imagenet_weights

LABELS, HEIGHT, WIDTH = 3, 64, 48


@pytest.fixture(scope="module")
def stock():
    """Return a network of stock layers with ImageNet weights, and a head that is not zero."""
    built = network.build_network("lite0", LABELS, HEIGHT, WIDTH)
    load_imagenet_weights(built, "lite0")
    return built


@pytest.fixture(scope="module")
def learner(stock):
    """Return the network that trains on CPUs, with the same weights."""
    built = network.build_network("lite0", LABELS, HEIGHT, WIDTH, Learning(on_cpu=True))
    built.set_weights(stock.get_weights())
    return built


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, 3), dtype=np.uint8)


def gradients(built, images):
    """Return the gradients of all trainable weights in fine-tuning, by path. The targets are fixed."""
    import tensorflow as tf

    network.unfreeze(built, "lite0")
    targets = np.random.default_rng(1).random((len(images), LABELS), dtype=np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((built(images, training=True) - targets) ** 2)
    variables = built.trainable_variables
    found = tape.gradient(loss, [variable.value for variable in variables])
    return {variable.path: gradient.numpy() for variable, gradient in zip(variables, found, strict=True)}


def test_the_list_of_weights_is_the_same(stock, learner):
    assert [(weight.path, weight.shape) for weight in learner.weights] == [
        (weight.path, weight.shape) for weight in stock.weights
    ]


def test_predictions_are_the_same(stock, learner, images):
    np.testing.assert_allclose(learner(images), stock(images), rtol=1e-4, atol=1e-4)


def test_gradients_are_the_same(stock, learner, images):
    """Rounding may move a value across a bound of ReLU6, so the test compares each gradient as a whole."""
    expected, found = gradients(stock, images), gradients(learner, images)

    assert found.keys() == expected.keys()
    assert len(found) == 68, "kernels and biases of 34 layers: all but the 16 depthwise ones"
    for path, gradient in expected.items():
        assert np.linalg.norm(gradient) > 0, path
        assert np.linalg.norm(found[path] - gradient) < 0.01 * np.linalg.norm(gradient), path


def test_predictions_need_only_stock_layers(stock, learner):
    ours = {type(layer).__module__.partition(".")[0] for layer in learner.layers}

    assert {type(layer).__module__.partition(".")[0] for layer in stock.layers} == {"keras"}
    assert ours == {"keras", "genretag"}
