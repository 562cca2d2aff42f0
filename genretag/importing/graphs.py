"""Graphs of models as OpenVINO reads them: find the input and the output, and fold the preprocessing into the graph."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops
from openvino.preprocess import PrePostProcessor

from genretag.errors import UsageError, one_line, quoted
from genretag.images import ImageRule
from genretag.importing.settings import CHANNELS, ImportSettings
from genretag.model.openvino_graphs import ACTIVATIONS, skip_passing

SEVERAL = 8  # posters, to try whether the graph takes batches of any size


@dataclass(frozen=True)
class Interface:
    """Input and output of a model, with all that its settings left open.

    `activation` is what turns the outputs into probabilities: sigmoid, softmax or none. `last` is the operation that
    the graph itself ends with, if it is a sigmoid or a softmax, else None.
    """

    rule: ImageRule
    layout: str  # NHWC or NCHW
    activation: str
    last: str | None

    def describe(self, settings: ImportSettings) -> list[str]:
        """Return lines for the terminal that say how a picture gets into the model, and probabilities out of it."""
        rule, lines = self.rule, []
        how = f"{rule.resize} with bars of {rule.bars}" if rule.resize == "letterbox" else rule.resize
        lines.append(f"input: {rule.height} x {rule.width} (height x width) by {how}, {self.layout}, {settings.order}")
        if settings.changes_values():
            means, deviations = ([f"{value:g}" for value in values] for values in (settings.means, settings.deviations))
            lines.append(f"values: (pixel x {settings.scale} - ({', '.join(means)})) / ({', '.join(deviations)})")
        else:
            lines.append("values: pixels from 0 to 255, as they are")
        added = "as they are" if self.activation == "none" else f"through a {self.activation}"
        own = f"; the model ends with a {self.last}" if self.last else ""
        lines.append(f"outputs: {added}{own}")
        return lines


def interface_of(model: Any, labels: int, settings: ImportSettings) -> Interface:
    """Return what an `openvino.Model` takes and returns. `labels` is the number of labels.

    Raises `UsageError` if the model does not take one picture with three colours, if its input size is not fixed and
    not in `settings`, or if it does not return a number for each label.
    """
    if len(model.inputs) != 1:
        names = ", ".join(quoted(tensor.get_any_name()) for tensor in model.inputs)
        raise UsageError(f"the model has {len(model.inputs)} inputs ({names}), and a tagger takes one picture")
    shape = model.inputs[0].get_partial_shape()
    layout = _layout(shape, settings)
    places = (1, 2) if layout == "NHWC" else (2, 3)
    sides = []
    for place, name in zip(places, ("height", "width"), strict=True):
        fixed, wanted = shape[place], getattr(settings, name)
        if fixed.is_static and wanted not in (None, fixed.get_length()):
            raise UsageError(f"the model takes pictures of {name} {fixed.get_length()}, not {wanted}")
        if fixed.is_dynamic and wanted is None:
            raise UsageError(f"the model takes pictures of any {name}: set --height and --width")
        sides.append(int(fixed.get_length() if fixed.is_static else wanted))
    output = _output(model, settings)
    _require_labels(output, labels)
    last = _last(output)
    activation = settings.activation or ("none" if last else None)
    if activation is None:
        raise UsageError(
            "the model ends with neither a sigmoid nor a softmax: set --activation sigmoid (several labels for each "
            "picture), softmax (one label) or none (the outputs are probabilities)"
        )
    if activation != "none" and last:
        raise UsageError(f"the model ends with a {last} already: leave --activation out")
    return Interface(settings.rule_for(*sides), layout, activation, last)


def _layout(shape: Any, settings: ImportSettings) -> str:
    """Return NHWC or NCHW for the shape of an input."""
    if shape.rank.is_dynamic or len(shape) != 4:
        raise UsageError(f"the model's input must have 4 axes (a batch of pictures), and its shape is {shape}")
    colours = {"NCHW": shape[1], "NHWC": shape[3]}
    possible = [name for name, axis in colours.items() if axis.is_dynamic or axis.get_length() == CHANNELS]
    if settings.layout:
        if settings.layout not in possible:
            raise UsageError(f"in {settings.layout}, the model's input of shape {shape} does not have three colours")
        return settings.layout
    sure = [name for name in possible if colours[name].is_static]
    if len(sure) != 1:
        what = "has no axis of size 3" if not sure else "has two axes of size 3"
        raise UsageError(f"the model's input of shape {shape} {what}: set --layout to NHWC or NCHW")
    return sure[0]


def _output(model: Any, settings: ImportSettings) -> Any:
    """Return the output that has the labels. Raises `UsageError` if there are several, or none of the name set."""
    names = [tensor.get_any_name() for tensor in model.outputs]
    if settings.model_output is not None:
        if settings.model_output not in names:
            has = ", ".join(map(quoted, names))
            raise UsageError(f"the model has no output {quoted(settings.model_output)}: it has {has}")
        return model.outputs[names.index(settings.model_output)]
    if len(names) != 1:
        raise UsageError(f"the model has {len(names)} outputs: name one with --model-output: {', '.join(names)}")
    return model.outputs[0]


def _require_labels(output: Any, labels: int) -> None:
    """Raise `UsageError` if an output does not have one number for each label."""
    shape = output.get_partial_shape()
    if shape.rank.is_dynamic or any(axis.is_dynamic for axis in list(shape)[1:]):
        raise UsageError(f"the model's output has the shape {shape}: it must have a fixed number of values")
    found = int(np.prod([axis.get_length() for axis in list(shape)[1:]])) if len(shape) > 1 else 1
    if found != labels:
        raise UsageError(f"the model returns {found} values for a picture, and there are {labels} labels")


def _last(output: Any) -> str | None:
    """Return the activation that a graph ends with: sigmoid, softmax, or None for neither."""
    return ACTIVATIONS.get(skip_passing(output.get_node().input_value(0).get_node()).get_type_name())


def folded(model: Any, interface: Interface, settings: ImportSettings) -> Any:
    """Return a graph that takes pixels and returns probabilities: uint8 (N, height, width, 3) -> float32 (N, labels).

    This function changes `model`. Raises `UsageError` if the graph does not take batches of any size.
    """
    rule = interface.rule
    sides = {"NHWC": [-1, rule.height, rule.width, CHANNELS], "NCHW": [-1, CHANNELS, rule.height, rule.width]}
    output = _output(model, settings)
    try:
        model.reshape(sides[interface.layout])
        values = ops.reshape(output.get_node().input_value(0), np.array([0, -1], dtype=np.int64), special_zero=True)
        result = ops.convert(values, "f32")
        if interface.activation == "sigmoid":
            result = ops.sigmoid(result)
        elif interface.activation == "softmax":
            result = ops.softmax(result, 1)
        graph = openvino.Model([ops.result(result)], model.get_parameters(), "tagger")
        graph = _with_preprocessing(graph, interface, settings)
        tried = graph.clone()
        tried.reshape([SEVERAL, rule.height, rule.width, CHANNELS])
        shape = list(tried.outputs[0].get_partial_shape())
    except RuntimeError as error:
        raise UsageError(f"OpenVINO cannot use the model: {_reason(error)}") from error
    if len(shape) != 2 or shape[0].is_dynamic or shape[0].get_length() != SEVERAL:
        raise UsageError("the model does not take batches of any size: export it with a dynamic batch size")
    return graph


def _with_preprocessing(graph: Any, interface: Interface, settings: ImportSettings) -> Any:
    """Return the graph with uint8 pixels (N, height, width, 3), in RGB, as its input."""
    steps = PrePostProcessor(graph)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout(interface.layout))
    change = steps.input().preprocess()
    change.convert_element_type(openvino.Type.f32)
    if settings.order == "bgr":
        change.reverse_channels()
    if settings.changes_values():
        change.scale(1 / settings.factor)
        change.mean(list(settings.means))
        change.scale(list(settings.deviations))
    return steps.build()


def _reason(error: Exception) -> str:
    """Return the first line of a message of OpenVINO that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from", "Check '", "While "))]
    return one_line((said or lines or [type(error).__name__])[0], 300)
