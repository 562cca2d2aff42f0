"""Networks in 8-bit integers that say the same on every CPU, and those that do not.

A CPU without VNNI (AMD before Zen 4, Intel before Cascade Lake) multiplies unsigned activations by signed weights and
adds two products in 16 bits (`vpmaddubsw`). Where that does not fit, the sum is cut off: the network says something
else there, without an error. Weights of at most 64 leave room: 2 x 255 x 64 = 32,640 of 32,767.
"""

from collections.abc import Mapping
from typing import Any

from genretag.bundle import INT8_FILES

LARGEST_WEIGHT = 64
WEIGHTED = frozenset({"Convolution", "GroupConvolution", "MatMul"})


def saturating_layers_of(files: Mapping[str, bytes]) -> list[str]:
    """`saturating_layers` of the int8 network among a bundle's files."""
    import openvino

    xml, weights = (files[name] for name in INT8_FILES)
    return saturating_layers(openvino.Core().read_model(model=xml, weights=weights))


def saturating_layers(network: Any) -> list[str]:
    """The layers of an `openvino.Model` whose sums may not fit, by name.

    A convolution of each channel by itself (depthwise) adds its products one by one, in 32 bits, so it is none.
    """
    import numpy as np

    found = []
    for constant in network.get_ordered_ops():
        if constant.get_type_name() != "Constant" or constant.get_element_type().to_string() != "i8":
            continue
        weights = constant.data
        layer = _layer_of(constant)
        if layer is None or (layer.get_type_name() == "GroupConvolution" and weights.shape[2] == 1):
            continue
        if weights.size and np.abs(weights.astype(np.int16)).max() > LARGEST_WEIGHT:
            found.append(layer.get_friendly_name())
    return found


def _layer_of(constant: Any) -> Any:
    """The layer that multiplies by these weights, or none: it follows after what turns them into real numbers."""
    node = constant
    while node is not None and node.get_type_name() not in WEIGHTED:
        readers = list(node.output(0).get_target_inputs())
        node = readers[0].get_node() if len(readers) == 1 else None
    return node
