"""OpenVINO graphs of bundles: read and write them, convert Keras models, and find the end of a graph."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PASSING = frozenset({"Convert", "Reshape", "Squeeze", "Unsqueeze"})  # operations that change no value
ACTIVATIONS = {"Sigmoid": "sigmoid", "SoftMax": "softmax", "Softmax": "softmax"}  # by OpenVINO's name


def read_graph(files: Mapping[str, bytes], names: Sequence[str]) -> Any:
    """Return the `openvino.Model` in a bundle's files. `names` are those of the .xml and the .bin file."""
    import openvino

    xml, weights = (files[name] for name in names)
    return openvino.Core().read_model(model=xml, weights=weights)


def graph_files(graph: Any, names: Sequence[str], *, half: bool) -> dict[str, bytes]:
    """Return the content of the two files of an `openvino.Model`, by name: the .xml and the .bin file.

    If `half` is true, weights in float32 are stored as float16. Otherwise all weights keep their precision.
    """
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(graph, Path(folder) / names[0], compress_to_fp16=half)
        return {name: (Path(folder) / name).read_bytes() for name in names}


def convert_keras(network: Any) -> Any:
    """Convert a Keras model to an `openvino.Model`."""
    import openvino

    with warnings.catch_warnings():  # Keras warns about the way OpenVINO calls a network with one named input
        warnings.filterwarnings("ignore", "The structure of `inputs`", UserWarning)
        return openvino.convert_model(network)


def skip_passing(node: Any) -> Any:
    """Return the last node up to `node`, or `node` itself, that changes values."""
    while node.get_type_name() in PASSING:
        node = node.input_value(0).get_node()
    return node
