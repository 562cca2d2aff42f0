"""Evidence maps: which part of a picture supports a label, for networks that end in pooling and a linear layer.

Such a network averages its features over the picture, and adds up the averages with one weight for each label. So the
logit of a label is the mean of a map plus a constant. The map is the class activation map of Zhou et al. 2016
(arXiv:1512.04150): at each place, the features times the weights of the label. Nothing is estimated. Networks with
other ends, such as attention, have no such map.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from genretag.errors import UsageError
from genretag.model.bundle import OPENVINO_FILES, Bundle
from genretag.model.calibration import sigmoid, softmax
from genretag.model.openvino_graphs import ACTIVATIONS, PASSING, read_graph, skip_passing

NO_MAP = (
    "the network of this bundle does not end in global pooling and one linear layer, so it cannot say which part of a "
    "picture supports a genre"
)


@dataclass(frozen=True)
class Evidence:
    """Evidence maps of pictures, and the constant of each label.

    `maps` is float32 (N, labels, rows, columns). The mean of a label's map plus its `constant`, float32 (labels,), is
    the logit. `softmax` is true if the labels exclude each other.
    """

    maps: np.ndarray
    constant: np.ndarray
    softmax: bool

    @property
    def probabilities(self) -> np.ndarray:
        """The probabilities of the network, float64 (N, labels)."""
        logits = self.maps.mean(axis=(2, 3), dtype=np.float64) + self.constant
        return softmax(logits) if self.softmax else sigmoid(logits)


@dataclass(frozen=True)
class _Head:
    """The end of a network: the features before the pooling, the weights (labels, channels), and the constants."""

    features: Any  # an output of a node of the graph
    weights: np.ndarray
    constant: np.ndarray
    channels_first: bool
    softmax: bool


class EvidenceNetwork:
    """A bundle's network that is not quantized, without its end, so that it returns evidence maps.

    Raises `UsageError` if the network does not end in global pooling and one linear layer.
    """

    def __init__(self, bundle: Bundle) -> None:
        import openvino

        model = read_graph(bundle.files, OPENVINO_FILES)
        self._head = _head(model, len(bundle.labels))
        features = openvino.Model([self._head.features], model.get_parameters(), "features")
        self._compiled = openvino.Core().compile_model(features, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def evidence(self, images: np.ndarray) -> Evidence:
        """Return the evidence maps of images, uint8 (N, height, width, 3)."""
        found = []
        for image in images:
            values = self._compiled(image[None])[0][0]
            channels = values if self._head.channels_first else values.transpose(2, 0, 1)
            found.append(np.tensordot(self._head.weights, channels, axes=1).astype(np.float32))
        return Evidence(np.stack(found), self._head.constant, self._head.softmax)


def _head(model: Any, labels: int) -> _Head:
    """Return the end of a network. Raises `UsageError` if it is no pooling with one linear layer."""
    (result,) = model.get_results()
    node = skip_passing(result.input_value(0).get_node())
    activation = ACTIVATIONS.get(node.get_type_name()) or _refuse()
    node = node.input_value(0).get_node()
    slope, constant = np.ones(labels, np.float32), np.zeros(labels, np.float32)
    while node.get_type_name() != "MatMul":
        kind = node.get_type_name()
        if kind in PASSING:
            node = node.input_value(0).get_node()
        elif kind in ("Add", "Multiply"):
            node, value = _with_constant(node)
            value = np.broadcast_to(value.reshape(-1), labels) if value.size in (1, labels) else _refuse()
            constant = constant + slope * value if kind == "Add" else constant
            slope = slope * value if kind == "Multiply" else slope
        else:
            _refuse()
    weights = _constant(node.input_value(1).get_node())
    weights = weights if node.get_attributes()["transpose_b"] else weights.T
    pooled = skip_passing(node.input_value(0).get_node())
    if pooled.get_type_name() != "ReduceMean" or weights.shape[0] != labels:
        _refuse()
    features, axes = pooled.input_value(0), sorted(_constant(pooled.input_value(1).get_node()).reshape(-1).tolist())
    if len(features.get_partial_shape()) != 4 or axes not in ([1, 2], [2, 3]):
        _refuse()
    return _Head(
        features, weights * slope[:, None], constant.astype(np.float32), axes == [2, 3], activation == "softmax"
    )


def _with_constant(node: Any) -> tuple[Any, np.ndarray]:
    """Return the two operands of a node, of which one is a constant: the other's node, and the constant's values."""
    first, second = (node.input_value(number).get_node() for number in (0, 1))
    value = _constant(second, required=False)
    return (first, value) if value is not None else (second, _constant(first))


def _constant(node: Any, *, required: bool = True) -> Any:
    """Return the values of a constant, float32 or int64. If it is none, return None, or raise `UsageError`."""
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return _refuse() if required else None
    values = np.array(node.data)
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def _refuse() -> Any:
    raise UsageError(NO_MAP)
