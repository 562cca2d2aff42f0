"""Embeddings: the vector that the head of a network reads, as further outputs of the network.

The head is the last linear layer. The vector before it describes the picture: similar pictures have similar vectors. A
bundle with embeddings gives both in one pass, in the same engines: first the probabilities, then the embedding.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from genretag.errors import UsageError
from genretag.model.bundle import INT8_FILES, KERAS_FILE, OPENVINO_FILES, Bundle
from genretag.model.keras_files import load_keras_file
from genretag.model.openvino_graphs import graph_files, read_graph

NO_HEAD = "the network of this bundle does not end in a linear layer, so it has no embedding: tag without --embeddings"


def embedding_length(bundle: Bundle) -> int:
    """Return the length of a bundle's embedding. Raises `UsageError` if its network does not end in a linear layer."""
    (result,) = read_graph(bundle.files, OPENVINO_FILES).get_results()
    shape = _vector_before_the_head(result).output(0).get_partial_shape()
    if shape[1].is_dynamic:
        raise UsageError(NO_HEAD)
    return int(shape[1].get_length())


def with_embeddings(bundle: Bundle, engine: str) -> Bundle:
    """Return a bundle for `engine` whose network gives the embedding after the probabilities: float32 (N, outputs).

    It has a label for each output, so engines run it as any other bundle. Its model version means nothing. Raises
    `UsageError` if the network does not end in a linear layer.
    """
    length = embedding_length(bundle)
    files: dict[str, bytes] = {}
    if engine == "openvino":
        for names in (OPENVINO_FILES, INT8_FILES):
            if names[0] in bundle.files:
                files |= _openvino(bundle.files, names)
    else:
        files[KERAS_FILE] = _keras(bundle.files[KERAS_FILE], length)
    labels = (*bundle.labels, *(f"embedding {number}" for number in range(length)))
    return replace(bundle, labels=labels, thresholds={}, files=files)


def _openvino(files: Mapping[str, bytes], names: tuple[str, str]) -> dict[str, bytes]:
    """Return the two files of an OpenVINO network, with embeddings."""
    import openvino
    from openvino import opset13 as ops

    model = read_graph(files, names)
    (result,) = model.get_results()
    vector = ops.convert(_vector_before_the_head(result), "f32")
    both = ops.concat([result.input_value(0), vector], axis=1)
    graph = openvino.Model([ops.result(both)], model.get_parameters(), model.get_friendly_name())
    return graph_files(graph, names, half=False)


def _vector_before_the_head(result: Any) -> Any:
    """Return a new node with the input of a graph's last linear layer, as (N, length). `result` is the graph's end."""
    from openvino import opset13 as ops

    return ops.reshape(_before_the_head(result.input_value(0).get_node()), [0, -1], special_zero=True)


def _before_the_head(node: Any) -> Any:
    """Return the input of the last linear layer of an OpenVINO graph that ends in `node`.

    Raises `UsageError` if there is none.
    """
    while not (node.get_type_name() in ("MatMul", "Convolution") and _is_constant(node.input_value(1).get_node())):
        inputs = [value.get_node() for value in node.input_values() if not _is_constant(value.get_node())]
        if not inputs:
            raise UsageError(NO_HEAD)
        node = inputs[0]
    features = node.input_value(0)
    quantizer = features.get_node()
    return quantizer.input_value(0) if quantizer.get_type_name() == "FakeQuantize" else features


def _is_constant(node: Any) -> bool:
    """Return True if a node of a graph depends on no input of the graph."""
    if node.get_type_name() in ("Constant", "Parameter"):
        return node.get_type_name() == "Constant"
    return all(_is_constant(value.get_node()) for value in node.input_values())


def _keras(file: bytes, length: int) -> bytes:
    """Return the bytes of a Keras model with embeddings of this length. Raises `UsageError` if it has no such head."""
    import keras

    model = load_keras_file(file)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / KERAS_FILE
        heads = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
        if not heads or heads[-1].input.shape[1:] != (length,):
            raise UsageError(NO_HEAD)
        both = keras.layers.Concatenate(dtype="float32", name="with_embedding")([model.output, heads[-1].input])
        keras.Model(model.input, both).save(path)
        return path.read_bytes()
