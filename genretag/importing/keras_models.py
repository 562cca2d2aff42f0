"""Keras models of other origin: check that they run no code, and put preprocessing and activation around them."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from genretag.errors import UsageError, one_line, quoted
from genretag.importing.graphs import Interface
from genretag.importing.settings import CHANNELS, ImportSettings


def load_keras(file: Path, output: str | None) -> Any:
    """Load a `.keras` file without running code of its author. If `output` is not None, keep only that output.

    Raises `UsageError` if the file is damaged, if it has Lambda layers or layers that are not Keras's own, or if the
    model is neither Functional nor Sequential.
    """
    try:
        model = keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for a file that it does not accept
        raise UsageError(f"Keras does not load the model: {one_line(error, 300)}") from error
    foreign = [layer.name for layer in _layers(model) if not type(layer).__module__.startswith("keras.")]
    if foreign:
        raise UsageError(f"layer {quoted(foreign[0])} is not one of Keras, and a bundle must never run other code")
    if not isinstance(model, keras.Sequential | keras.Model) or not getattr(model, "inputs", None):
        raise UsageError("the model must be a Functional or Sequential model of Keras")
    if output is None:
        return _functional(model.inputs, model.outputs)
    names = list(keras.Model(model.inputs, model.outputs).output_names)
    if output not in names:
        raise UsageError(f"the model has no output {quoted(output)}: it has {', '.join(map(quoted, names))}")
    return _functional(model.inputs, [model.outputs[names.index(output)]])


def _functional(inputs: list[Any], outputs: list[Any]) -> Any:
    """Return a Functional model. OpenVINO converts such a model, but no Sequential one."""
    return keras.Model(*(tensors[0] if len(tensors) == 1 else tensors for tensors in (inputs, outputs)))


def _layers(model: Any) -> list[Any]:
    """Return all layers of a model, with those of the models in it."""
    found = []
    for layer in getattr(model, "layers", []):
        found += [layer, *_layers(layer)]
    return found


def scoring_model(model: Any, interface: Interface, settings: ImportSettings) -> Any:
    """Return a Keras model that takes pixels and returns probabilities: uint8 (N, H, W, 3) -> float32 (N, labels).

    A convolution of size 1 scales, shifts and reorders the colours, so the model has only layers of Keras.
    """
    rule = interface.rule
    pixels = keras.Input((rule.height, rule.width, CHANNELS), dtype="uint8", name="image")
    values = keras.layers.Rescaling(1.0, name="as_float")(pixels)
    if settings.changes_values() or settings.order == "bgr":
        colours = keras.layers.Conv2D(CHANNELS, 1, name="preprocessing", trainable=False)
        values = colours(values)
        colours.set_weights(colour_weights(settings))
    outputs = model(values, training=False)
    outputs = keras.layers.Flatten(name="labels")(outputs)
    if interface.activation != "none":
        outputs = keras.layers.Activation(interface.activation, name="probabilities")(outputs)
    return keras.Model(pixels, outputs)


def colour_weights(settings: ImportSettings) -> list[np.ndarray]:
    """Return kernel, float32 (1, 1, 3, 3), and bias, float32 (3,), of the convolution that prepares pixels."""
    means, deviations = np.array(settings.means), np.array(settings.deviations)
    reordered = np.eye(CHANNELS)[::-1] if settings.order == "bgr" else np.eye(CHANNELS)
    kernel = reordered * settings.factor / deviations
    return [kernel[None, None].astype(np.float32), (-means / deviations).astype(np.float32)]
