"""Small models of other origin, with random weights: what people bring to `genretag bundle`."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LABELS = ("red", "blue", "sky", "sea", "Sci-Fi")
HEIGHT, WIDTH = 48, 32


def onnx_tagger(layout="NCHW", last="Sigmoid", batch="batch", height=HEIGHT, width=WIDTH, gain=1.0, labels=5):
    """Return an ONNX model: convolution, mean over the picture, a linear layer, and the activation `last` (or None).

    `gain` scales the weights of the convolution, so that the outputs also vary for large input values.
    """
    random = np.random.default_rng(3)
    kernel = (random.normal(size=(8, 3, 3, 3)) * 0.3 * gain).astype(np.float32)
    linear = random.normal(size=(8, labels)).astype(np.float32)
    shape = [batch, 3, height, width] if layout == "NCHW" else [batch, height, width, 3]
    nodes, picture = [], "picture"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [picture], ["turned"], perm=[0, 3, 1, 2]))
        picture = "turned"
    nodes += [
        helper.make_node("Conv", [picture, "kernel"], ["features"], strides=[2, 2]),
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("ReduceMean", ["positive"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "linear"], ["logits"]),
    ]
    if last:
        nodes.append(helper.make_node(last, ["logits"], ["tags"]))
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("tags" if last else "logits", TensorProto.FLOAT, [batch, labels])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(linear, "linear")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def save_onnx(folder, name="tagger.onnx", **options):
    """Write the ONNX model of `onnx_tagger` to a file in `folder`, and return the file."""
    file = folder / name
    onnx.save(onnx_tagger(**options), file)
    return file


def keras_tagger(last="sigmoid"):
    """Return a Keras model that takes values around 0, with the colours last."""
    import keras

    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((HEIGHT, WIDTH, 3)),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(len(LABELS), activation=last),
        ]
    )


def save_labels(folder):
    """Write `LABELS` to a text file in `folder`, and return the file."""
    file = folder / "labels.txt"
    file.write_text("\n".join(LABELS) + "\n")
    return file
