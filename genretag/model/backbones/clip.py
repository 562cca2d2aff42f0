"""CLIP's image tower ViT-B/16 (Radford et al. 2021, arXiv:2103.00020) in stock Keras layers.

The tower turns a picture into 197 tokens of 768 numbers: a class token, and one token for each of 14 x 14 patches. The
features are the class token next to the mean of the other tokens, 1,536 numbers.

The class token and the embeddings of the positions are the bias of the layer that embeds the patches. So every layer is
a stock layer, and a bundle of this network needs no code of ours.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from genretag.errors import JobError, UsageError
from genretag.model.backbones.base import NO_LEARNING, RANDOM, Backbone, Learning
from genretag.model.backbones.clip_weights import LayerWeights, keras_hub_weights, onnx_weights

EPSILON = 1e-5
MEAN = (122.7709383, 116.7460125, 104.09373615)  # of the colours 0 to 255 that CLIP was trained with
DEVIATION = (68.5005327, 66.6321579, 70.32316305)
# Features 0, 191, ..., 1337 of the picture of `reference_picture`, by ONNX Runtime with the weights in float32
REFERENCE = (-0.2858, 0.0110, -0.1381, 0.1748, -0.0458, -0.1144, -0.0881, -0.3644)
REFERENCE_STEP = 191
MAY_DIFFER = 2e-3


@dataclass(frozen=True)
class TowerSize:
    """The size of a tower: the side of the picture and of a patch in pixels, width of a token, blocks and heads."""

    side: int = 224
    patch: int = 16
    width: int = 768
    blocks: int = 12
    heads: int = 12

    @property
    def patches(self) -> int:
        """Number of patches of a picture."""
        return (self.side // self.patch) ** 2


VIT_B_16 = TowerSize()


class Clip(Backbone):
    """The backbone `clip`: uint8 (N, 224, 224, 3) -> float32 (N, 1536)."""

    name = "clip"
    height = width = VIT_B_16.side

    def build(self, height: int, width: int, learning: Learning = NO_LEARNING) -> Any:
        """Return the tower with random weights."""
        self.require_size(height, width)
        return build_tower(VIT_B_16, learning.drop_connect)

    def load(self, network: Any, weights: str | None) -> bool:
        """Set OpenAI's weights. `weights` is the location of a file for `onnx_weights`.

        None reads KerasHub's preset `clip_vit_base_patch16`, which KerasHub may download. Return False for `RANDOM`.
        Raises `UsageError` if the weights cannot be read, and `JobError` if the tower does not compute what it should.
        """
        if weights == RANDOM:
            return False
        set_weights(network, onnx_weights(weights, VIT_B_16.heads) if weights else keras_hub_weights(VIT_B_16.blocks))
        _check(network)
        return True

    def require_size(self, height: int, width: int) -> None:
        """Raise `UsageError` if the size is not 224 x 224: the embeddings of the positions fit no other."""
        if (height, width) != (self.height, self.width):
            raise UsageError(f"the backbone clip takes {self.height} x {self.width} pixels, not {height} x {width}")


def build_tower(size: TowerSize, drop_connect: float = 0.0) -> Any:
    """Return a tower up to its features, with random weights: uint8 (N, side, side, 3) -> float32 (N, 2 * width)."""
    import keras

    layers = keras.layers
    image = keras.Input((size.side, size.side, 3), dtype="uint8", name="image")
    scale = [1 / deviation for deviation in DEVIATION]
    offset = [-mean / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True)]
    x = layers.Rescaling(scale, offset, name="normalise")(image)
    rows, patch = size.side // size.patch, size.patch
    x = layers.Reshape((rows, patch, rows, patch, 3), name="rows_and_columns")(x)
    x = layers.Permute((1, 3, 2, 4, 5), name="patches_first")(x)
    x = layers.Reshape((size.patches, patch * patch * 3), name="patches")(x)
    x = layers.ZeroPadding1D((1, 0), name="place_of_class_token")(x)
    x = layers.EinsumDense("btp,pd->btd", (size.patches + 1, size.width), bias_axes="td", name="embedding")(x)
    x = layers.LayerNormalization(epsilon=EPSILON, name="embedding_normalisation")(x)
    for number in range(size.blocks):
        x = _block(x, f"block_{number}", size, drop_connect * number / size.blocks)
    first = layers.Flatten(name="class_token")(layers.Cropping1D((0, size.patches), name="first_token")(x))
    mean = layers.GlobalAveragePooling1D(name="mean_token")(layers.Cropping1D((1, 0), name="other_tokens")(x))
    return keras.Model(image, layers.Concatenate(name="features")([first, mean]), name="clip")


def _block(x: Any, name: str, size: TowerSize, drop_rate: float) -> Any:
    """Return the tokens `x` after one transformer block: attention, then two dense layers.

    `drop_rate` is the rate at which training drops each of the two branches.
    """
    import keras

    layers = keras.layers

    def kept(branch: Any, which: str) -> Any:
        if not drop_rate:
            return branch
        return layers.Dropout(drop_rate, noise_shape=(None, 1, 1), name=f"{name}_{which}_drop_connect")(branch)

    y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_normalisation_1")(x)
    y = layers.MultiHeadAttention(size.heads, size.width // size.heads, name=f"{name}_attention")(y, y)
    x = layers.Add(name=f"{name}_add_1")([x, kept(y, "attention")])
    y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_normalisation_2")(x)
    y = layers.Dense(4 * size.width, name=f"{name}_dense_1")(y)
    gate = layers.Activation("sigmoid", name=f"{name}_gate")(layers.Rescaling(1.702, name=f"{name}_gate_scale")(y))
    y = layers.Multiply(name=f"{name}_quick_gelu")([y, gate])  # CLIP's approximation of GELU
    y = layers.Dense(size.width, name=f"{name}_dense_2")(y)
    return layers.Add(name=f"{name}_add_2")([x, kept(y, "dense")])


def set_weights(network: Any, weights: LayerWeights) -> None:
    """Set the weights of a tower, or of a network that contains its layers. `weights` has all layers with weights."""
    for name, arrays in weights.items():
        network.get_layer(name).set_weights(arrays)


def reference_picture(side: int) -> np.ndarray:
    """Return a picture that is the same everywhere, uint8 (1, side, side, 3): its colours rise at different rates."""
    rows, columns = np.mgrid[:side, :side]
    return np.stack([rows + columns, 3 * rows, 2 * columns + rows], axis=-1).astype(np.uint8)[None]


def _check(network: Any) -> None:
    """Raise `JobError` if the features of the reference picture are not those of the original network."""
    import keras

    features = keras.Model(network.input, network.get_layer("features").output)
    found = np.asarray(features(reference_picture(VIT_B_16.side)))[0, ::REFERENCE_STEP][: len(REFERENCE)]
    if not np.allclose(found, REFERENCE, atol=MAY_DIFFER):
        raise JobError("the network clip does not give CLIP's features on this computer, so nothing was trained")
