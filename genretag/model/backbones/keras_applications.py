"""The networks of `keras.applications`, by name, with their ImageNet weights and their own preprocessing."""

import sys
from typing import Any

import numpy as np

from genretag.errors import UsageError, one_line, quoted
from genretag.model.backbones.base import (
    NO_LEARNING,
    RANDOM,
    Backbone,
    Learning,
    preprocessed,
    set_after_preprocessing,
)

USUAL_SIDE = 224  # pixels
SIDES = {  # of the networks that were trained at another size
    "InceptionV3": 299,
    "InceptionResNetV2": 299,
    "Xception": 299,
    "NASNetLarge": 331,
    **{f"EfficientNetB{n}": side for n, side in enumerate((224, 240, 260, 300, 380, 456, 528, 600))},
    **{f"EfficientNetV2B{n}": side for n, side in enumerate((224, 240, 260, 300))},
    "EfficientNetV2S": 384,
    "EfficientNetV2M": 480,
    "EfficientNetV2L": 480,
}


class KerasApplication(Backbone):
    """A network of `keras.applications` up to its pooled features: uint8 (N, height, width, 3) -> float32 (N, F).

    The network's own preprocessing is part of it: a convolution of size 1 scales, shifts and reorders the colours.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.height = self.width = SIDES.get(name, USUAL_SIDE)

    def build(self, height: int, width: int, learning: Learning = NO_LEARNING) -> Any:  # noqa: ARG002 - see `Learning`
        """Return the network with random weights. Raises `UsageError` if it cannot take images of this size."""
        import keras

        image, values = preprocessed(height, width, *self._preprocessing())
        features = self._application(None, input_tensor=values).output
        return keras.Model(image, features, name=self.name)

    def load(self, network: Any, weights: str | None) -> bool:
        """Set the ImageNet weights, which Keras may download, or those of a local file without the top layers.

        Return False for `RANDOM`. Raises `UsageError` if the weights cannot be had or do not fit.
        """
        if weights == RANDOM:
            return False
        _, height, width, _ = network.input.shape
        try:
            arrays = self._application(weights or "imagenet", input_shape=(height, width, 3)).get_weights()
        except Exception as error:  # Keras and h5py raise many kinds
            where = f"in {weights}" if weights else "from Keras"
            raise UsageError(
                f"cannot read weights of {self.name} {where}: {one_line(error, 200)}; --weights names a local file "
                "(the variant without top layers), and --weights random starts without"
            ) from error
        set_after_preprocessing(network, arrays)
        return True

    def _application(self, weights: str | None, **shape: Any) -> Any:
        """Return the network of Keras without its top layers. `weights` is as Keras takes it, and `shape` its input."""
        import keras

        try:
            return getattr(keras.applications, self.name)(include_top=False, weights=weights, pooling="avg", **shape)
        except ValueError as error:
            if weights is not None:
                raise
            raise UsageError(f"{self.name} cannot take images of this size: {one_line(error, 200)}") from error

    def _preprocessing(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the network's own preprocessing as a matrix, float32 (3, 3), and an offset, float32 (3,).

        `pixels @ matrix + offset` is what the network's `preprocess_input` returns.
        """
        import keras

        prepare = sys.modules[getattr(keras.applications, self.name).__module__].preprocess_input
        colours = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)]).astype(np.float32)
        offset, *values = np.asarray(prepare(colours[None, None].copy()))[0, 0]
        return ((np.stack(values) - offset) / 255).astype(np.float32), offset.astype(np.float32)


def application_named(name: str) -> KerasApplication | None:
    """Return the network of `keras.applications` called `name`, such as `EfficientNetV2B0`, or None.

    Raises `UsageError` if Keras is missing.
    """
    try:
        import keras
    except ImportError as error:
        raise UsageError(f"the backbone {quoted(name)} needs Keras: pip install 'genretag[train]'") from error
    return KerasApplication(name) if name in applications(keras) else None


def applications(keras: Any) -> list[str]:
    """Return the names of all networks of `keras.applications`. `keras` is the module."""
    return [name for name in dir(keras.applications) if callable(getattr(keras.applications, name))]
