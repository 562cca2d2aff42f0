"""Networks for training and for bundles: a backbone with a linear head."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from genretag.model.backbones import NO_LEARNING, Learning, backbone_named

HEAD = "logits"


def build_network(backbone: str, labels: int, height: int, width: int, learning: Learning = NO_LEARNING) -> Any:
    """Build a network with random weights: uint8 (N, height, width, 3) -> float32 logits (N, labels).

    `backbone` is a name for `backbone_named`. The default of `learning` builds a network for predictions, of stock
    Keras layers.

    Networks of the same backbone, `labels`, `height` and `width` have the same list of weights, so weights can be
    copied between them. `learning` does not change the list.
    """
    import keras

    features = backbone_named(backbone).build(height, width, learning)
    x = features.output
    if learning.dropout:
        x = keras.layers.Dropout(learning.dropout, name="dropout")(x)
    logits = keras.layers.Dense(labels, dtype="float32", name=HEAD)(x)
    return keras.Model(features.input, logits, name=f"{backbone.rpartition('/')[2]}_classifier")


def pretrained_weights(backbone: str, height: int, width: int, weights: str | None) -> list[np.ndarray] | None:
    """Return the pretrained weights of a backbone, in the order of `build_network`, without the head.

    `weights` is as for `Backbone.load`. Return None if there are none. Raises `UsageError` if they cannot be had.
    """
    chosen = backbone_named(backbone)
    features = chosen.build(height, width)
    return features.get_weights() if chosen.load(features, weights) else None


@dataclass(frozen=True)
class Start:
    """The weights that training starts from.

    `features` are the weights of all layers but the head, as `pretrained_weights` returns them. `head` is the kernel
    and the bias of the head. None means: what the backbone loads itself, and a head that predicts the prevalence.
    """

    features: list[np.ndarray] | None = None
    head: list[np.ndarray] | None = None


PUBLISHED = Start()


def set_starting_weights(
    network: Any, backbone: str, prevalence: np.ndarray, weights: str | None = None, start: Start = PUBLISHED
) -> None:
    """Set the weights that training starts from: pretrained weights, and a head that gives every image the same output.

    `weights` is as for `Backbone.load`, for a backbone that loads in the workers. `prevalence` is each label's share of
    the training posters, float (labels,): the head predicts it for every poster, unless `start` has a head. A network
    with random weights keeps its random head too.
    """
    chosen, head = backbone_named(backbone), network.get_layer(HEAD).get_weights()
    if start.features is not None:
        network.set_weights([*start.features, *head])
    pretrained = start.features is not None or (chosen.loads_in_workers and chosen.load(network, weights))
    if pretrained:
        set_prior(network, prevalence)
    if start.head is not None:
        network.get_layer(HEAD).set_weights(start.head)


def set_prior(network: Any, prevalence: np.ndarray) -> None:
    """Set the head (last layer) so that the network predicts `prevalence`, float (labels,), for every poster."""
    kernel, _bias = network.get_layer(HEAD).get_weights()
    share = np.clip(prevalence, 1e-6, 1 - 1e-6)
    network.get_layer(HEAD).set_weights([np.zeros_like(kernel), np.log(share / (1 - share))])


def train_only_the_head(network: Any) -> None:
    """Make the head (last layer) trainable, and freeze all other layers."""
    for layer in network.layers:
        layer.trainable = layer.name == HEAD


def unfreeze(network: Any, backbone: str, share: float = 1.0) -> None:
    """Make the head trainable, and the last `share` of the backbone's layers with weights: 0 none of them, 1 all.

    Layers that the backbone never trains stay frozen too. A frozen batch normalisation keeps its statistics.
    """
    chosen = backbone_named(backbone)
    layers = [layer for layer in _leaves(network) if layer.weights and layer.name != HEAD]
    frozen = round((1 - share) * len(layers))
    network.get_layer(HEAD).trainable = True
    for number, layer in enumerate(layers):
        layer.trainable = number >= frozen and not chosen.never_trains(layer)


def _leaves(layer: Any) -> list[Any]:
    """Return the layers of a network that have no layers of their own, from the input to the output."""
    inner = getattr(layer, "layers", [])
    return [leaf for one in inner for leaf in _leaves(one)] if inner else [layer]


def scoring_network(network: Any, slope: np.ndarray, offset: np.ndarray) -> Any:
    """Return a network that gives calibrated probabilities instead of logits: sigmoid(slope * logit + offset).

    `slope` and `offset` are float (labels,). They become part of the weights of the last layer. So an engine that runs
    the network needs no calibration step.
    """
    import keras

    head = network.get_layer(HEAD)
    kernel, bias = head.get_weights()
    probabilities = keras.layers.Dense(kernel.shape[1], activation="sigmoid", name="probabilities")
    output = probabilities(head.input)
    probabilities.set_weights([kernel * slope, bias * slope + offset])
    return keras.Model(network.input, output, name=network.name)


def summary_lines(network: Any) -> list[str]:
    """Return Keras's table of a network's layers, outputs and parameters, as lines of plain text."""
    lines: list[str] = []
    network.summary(print_fn=lambda text: lines.extend(text.splitlines()))
    return [line.rstrip() for line in lines if line.strip()]
