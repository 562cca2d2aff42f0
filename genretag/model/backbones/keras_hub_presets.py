"""Presets of KerasHub: networks by the name of a preset, or from a folder that holds one.

A preset's own scale and offset of the colours become a convolution of size 1. Networks that end in a map of features
are pooled over it. Networks that end in tokens give the class token and the mean of the tokens of the patches. Networks
for pictures and text give only their tower for pictures.
"""

from functools import cache
from math import prod
from pathlib import Path
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
from genretag.model.keras_files import require_keras_hub

USUAL_SIDE = 224  # pixels, for a preset that takes pictures of any size


class HubPreset(Backbone):
    """A network of KerasHub up to its features: uint8 (N, height, width, 3) -> float32 (N, F).

    `name` is the name of a preset, such as `siglip_base_patch16_224`, or a local folder that holds a preset. Raises
    `UsageError` if KerasHub is missing, if the preset cannot be had, or if it is no network for pictures.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._hub = require_keras_hub(f"the backbone {quoted(name)}")
        shape = _shape_of(self._tower(name, load_weights=False))
        self.height, self.width = (side or USUAL_SIDE for side in shape)
        self._fixed = all(shape)

    def build(self, height: int, width: int, learning: Learning = NO_LEARNING) -> Any:  # noqa: ARG002 - see `Learning`
        """Return the network with random weights."""
        import keras

        scale, offset = self._colours()
        image, values = preprocessed(height, width, np.diag(scale), offset)
        tower = self._tower(self.name, load_weights=False)
        return keras.Model(image, _features(tower, tower(values)), name="hub")

    def load(self, network: Any, weights: str | None) -> bool:
        """Set the weights of the preset, which KerasHub may download, or of the preset in the local folder `weights`.

        Return False for `RANDOM`. Raises `UsageError` if the weights cannot be had or do not fit.
        """
        if weights == RANDOM:
            return False
        arrays = self._tower(weights or self.name, load_weights=True).get_weights()
        try:
            set_after_preprocessing(network, arrays)
        except ValueError as error:
            raise UsageError(
                f"the weights in {weights or self.name} do not fit {self.name}: {one_line(error, 200)}"
            ) from error
        return True

    def require_size(self, height: int, width: int) -> None:
        """Raise `UsageError` if the preset takes images of one size, and this is another."""
        if self._fixed and (height, width) != (self.height, self.width):
            raise UsageError(
                f"the backbone {self.name} takes {self.width} x {self.height} pixels, not {width} x {height}"
            )

    def _tower(self, preset: str, *, load_weights: bool) -> Any:
        """Return the preset's network, or of a network for pictures and text, the part for pictures."""
        try:
            network = self._hub.models.Backbone.from_preset(preset, load_weights=load_weights)
        except Exception as error:  # KerasHub, Keras and the model hubs raise many kinds
            raise UsageError(
                f"cannot get the preset {preset}: {one_line(error, 200)}; without a network, name a local folder that "
                "holds it"
            ) from error
        tower = getattr(network, "vision_encoder", network)
        if len(getattr(tower, "inputs", None) or ()) != 1 or len(tower.inputs[0].shape) != 4:
            raise UsageError(f"the preset {preset} is no network for pictures")
        return tower

    def _colours(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the preset's scale and offset of red, green and blue, float32 (3,), for pixels from 0 to 255.

        A preset without them takes pixels from 0 to 1.
        """
        try:
            converter = self._hub.layers.ImageConverter.from_preset(self.name)
        except Exception:  # noqa: BLE001 - KerasHub raises several kinds for a preset without a converter
            return np.full(3, 1 / 255, np.float32), np.zeros(3, np.float32)
        given = (converter.scale, 1.0), (converter.offset, 0.0)
        scale, offset = (
            np.broadcast_to(np.asarray(default if value is None else value, np.float32).reshape(-1), 3)
            for value, default in given
        )
        return scale, offset


def _features(tower: Any, output: Any) -> Any:
    """Return the features of a network's output, float32 (N, F): pooled, if the output is a map or tokens."""
    import keras

    rank = len(output.shape)
    if rank == 4:
        return keras.layers.GlobalAveragePooling2D(name="pooled")(output)
    if rank == 2:
        return output
    patches = _patches(tower)
    extra = output.shape[1] - patches
    if extra < 0:
        raise UsageError(f"the network gives {output.shape[1]} tokens for {patches} patches")
    mean = keras.layers.GlobalAveragePooling1D(name="pooled")(output[:, extra:])
    return keras.layers.Concatenate(name="class_and_mean")([output[:, 0], mean]) if extra else mean


def _patches(tower: Any) -> int:
    """Return how many patches a network cuts its pictures into."""
    size = np.broadcast_to(getattr(tower, "patch_size", 1), 2)
    return prod(side // int(patch) for side, patch in zip(_shape_of(tower), size, strict=True))


def _shape_of(tower: Any) -> tuple[int, int]:
    """Return the height and width of the pictures that a network takes, 0 for any."""
    height, width = (side or 0 for side in tower.inputs[0].shape[1:3])
    return height, width


@cache
def preset_named(name: str) -> HubPreset | None:
    """Return the preset `name` of KerasHub, or the one in the local folder `name`. None if there is none.

    Raises `UsageError` if it is a folder, and KerasHub is not installed.
    """
    if (Path(name) / "config.json").is_file():
        return HubPreset(name)
    try:
        import keras_hub
    except ImportError:
        return None
    kinds = (getattr(keras_hub.models, kind) for kind in dir(keras_hub.models) if kind.endswith("Backbone"))
    return HubPreset(name) if any(name in kind.presets for kind in kinds) else None
