"""Append a calibration to the networks of a bundle: probability -> sigmoid(slope * logit of the probability + offset).

If a network ends with a sigmoid, the logit is the input of the sigmoid, so no digits are lost. Otherwise the logit is
computed from the probability, after the probability is clipped to `CLIP` at both ends.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genretag.model.bundle import CALIBRATION, INT8_FILES, KERAS_FILE, OPENVINO_FILES
from genretag.model.calibration import CLIP
from genretag.model.keras_files import load_keras_file
from genretag.model.openvino_graphs import graph_files, read_graph


def with_calibration(files: Mapping[str, bytes], slope: np.ndarray, offset: np.ndarray) -> dict[str, bytes]:
    """Return a bundle's files with the calibration appended to each network: Keras, OpenVINO and int8.

    `files` are the bundle's files by name. `slope` and `offset` are float (labels,).
    """
    calibrated = dict(files)
    for names in (OPENVINO_FILES, INT8_FILES):
        if names[0] in files:
            calibrated |= _openvino(files, names, slope, offset)
    if KERAS_FILE in files:
        calibrated[KERAS_FILE] = _keras(files[KERAS_FILE], slope, offset)
    return calibrated


def _openvino(
    files: Mapping[str, bytes], names: tuple[str, str], slope: np.ndarray, offset: np.ndarray
) -> dict[str, bytes]:
    """Return the two files of an OpenVINO network, with the calibration appended."""
    import openvino
    from openvino import opset13 as ops

    model = read_graph(files, names)
    (result,) = model.get_results()
    last = result.input_value(0)
    if last.get_node().get_type_name() == "Sigmoid":
        logits = last.get_node().input_value(0)
    else:
        known = ops.clamp(last, CLIP, 1 - CLIP)
        logits = ops.subtract(ops.log(known), ops.log(ops.subtract(np.float32(1), known))).output(0)
    scaled = ops.add(ops.multiply(logits, slope.astype(np.float32)[None]), offset.astype(np.float32)[None])
    graph = openvino.Model([ops.result(ops.sigmoid(scaled))], model.get_parameters(), model.get_friendly_name())
    return graph_files(graph, names, half=False)


def _keras(file: bytes, slope: np.ndarray, offset: np.ndarray) -> bytes:
    """Return the bytes of a Keras model with the calibration appended, in stock layers."""
    import keras

    model = load_keras_file(file)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / KERAS_FILE
        linear = model.layers[-1]
        if CALIBRATION in [layer.name for layer in model.layers]:
            linear = model.get_layer(CALIBRATION)
        calibrated = model
        if linear.name == CALIBRATION or (
            isinstance(linear, keras.layers.Dense) and linear.activation is keras.activations.sigmoid
        ):
            kernel, bias = linear.get_weights()
            linear.set_weights([kernel * slope, bias * slope + offset])
        else:
            calibrated = _longer(model, slope, offset)
        calibrated.save(path)
        return path.read_bytes()


def _longer(model: Any, slope: np.ndarray, offset: np.ndarray) -> Any:
    """Return a Keras model that calibrates the probabilities of `model`."""
    import keras

    known = keras.ops.clip(model.output, CLIP, 1 - CLIP)
    logits = keras.ops.log(known) - keras.ops.log(1 - known)
    scale = keras.layers.EinsumDense("bl,l->bl", (len(slope),), bias_axes="l", dtype="float32", name=CALIBRATION)
    calibrated = keras.layers.Activation("sigmoid", dtype="float32", name="calibrated")(scale(logits))
    scale.set_weights([slope, offset])
    return keras.Model(model.input, calibrated)
