"""Backbone plus linear head: the network that is trained, and the one that goes into a bundle."""

from typing import Any

import numpy as np

from genretag.modeling import efficientnet_lite

HEAD = "logits"


def build_network(
    backbone: str, labels: int, height: int, width: int, *, dropout: float = 0.0, drop_connect: float = 0.0
) -> Any:
    """Builds uint8 (N, height, width, 3) -> float32 logits (N, labels), with random weights.

    Networks of one backbone and size have the same weights in the same order, whatever their dropout.
    """
    import keras

    features = efficientnet_lite.build_backbone(backbone, height, width, drop_connect)
    x = features.output
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    logits = keras.layers.Dense(labels, dtype="float32", name=HEAD)(x)
    return keras.Model(features.input, logits, name=f"{backbone}_classifier")


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
