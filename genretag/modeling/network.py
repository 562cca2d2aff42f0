"""Backbone plus linear head: the network that is trained, and the one that goes into a bundle."""

from typing import Any

import numpy as np

from genretag.modeling import efficientnet_lite, tutorial_cnn

TUTORIAL = "tutorial"
BACKBONES = (*efficientnet_lite.VARIANTS, TUTORIAL)
HEAD = "logits"


def build_network(
    backbone: str,
    labels: int,
    height: int,
    width: int,
    *,
    dropout: float = 0.0,
    drop_connect: float = 0.0,
    synchronized: bool = False,
) -> Any:
    """Builds uint8 (N, height, width, 3) -> float32 logits (N, labels), with random weights.

    Networks of one backbone and size have the same weights in the same order, whatever the rest. `synchronized`
    takes batch statistics over all workers, for a network with batch normalisation that learns under a strategy.
    """
    import keras

    if backbone == TUTORIAL:
        features = tutorial_cnn.build_features(height, width, dropout, synchronized=synchronized)
    else:
        features = efficientnet_lite.build_backbone(backbone, height, width, drop_connect)
    x = features.output
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    logits = keras.layers.Dense(labels, dtype="float32", name=HEAD)(x)
    return keras.Model(features.input, logits, name=f"{backbone}_classifier")


def smallest_side(backbone: str) -> int:
    """The least height and width in pixels that a backbone works on."""
    return tutorial_cnn.SMALLEST_SIDE if backbone == TUTORIAL else 1


def set_starting_weights(network: Any, backbone: str, prevalence: np.ndarray) -> None:
    """Starts from ImageNet and from the labels' prevalence, float (labels,); the tutorial's network from nothing."""
    if backbone != TUTORIAL:
        efficientnet_lite.load_imagenet_weights(network, backbone)
        set_prior(network, prevalence)


def set_prior(network: Any, prevalence: np.ndarray) -> None:
    """Starts the head where it answers every poster with the labels' prevalence, float (labels,)."""
    kernel, _bias = network.get_layer(HEAD).get_weights()
    share = np.clip(prevalence, 1e-6, 1 - 1e-6)
    network.get_layer(HEAD).set_weights([np.zeros_like(kernel), np.log(share / (1 - share))])


def train_only_the_head(network: Any) -> None:
    """Freezes everything but the head."""
    for layer in network.layers:
        layer.trainable = layer.name == HEAD


def train_all_but_depthwise(network: Any) -> None:
    """Frees everything but the depthwise kernels: they cost a third of a step on CPU and gain nothing."""
    for layer in network.layers:
        layer.trainable = not layer.name.endswith("_depthwise")


def scoring_network(network: Any, slope: np.ndarray, offset: np.ndarray) -> Any:
    """Returns the network that gives calibrated probabilities: sigmoid(slope * logit + offset).

    `slope` and `offset` are float (labels,); they are folded into the head's weights, so that every engine
    that runs the network gives calibrated probabilities with no further step.
    """
    import keras

    head = network.get_layer(HEAD)
    kernel, bias = head.get_weights()
    probabilities = keras.layers.Dense(kernel.shape[1], activation="sigmoid", name="probabilities")
    output = probabilities(head.input)
    probabilities.set_weights([kernel * slope, bias * slope + offset])
    return keras.Model(network.input, output, name=network.name)


def summary_lines(network: Any) -> list[str]:
    """Keras's table of a network's layers, outputs and parameters, as lines of plain text."""
    lines: list[str] = []
    network.summary(print_fn=lambda text: lines.extend(text.splitlines()))
    return [line.rstrip() for line in lines if line.strip()]
