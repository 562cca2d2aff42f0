"""The plain network of the best known tutorial on this task, as a comparison.

P. Sharma, "Build your First Multi-Label Image Classification Model in Python" (Analytics Vidhya, 2019). It has four
convolutions with batch normalisation and two dense layers, and is trained from random weights.
"""

from typing import Any

from genretag.errors import UsageError
from genretag.model.backbones.base import NO_LEARNING, Backbone, Learning

FILTERS = (16, 32, 64, 64)
KERNEL = 5
DENSE_UNITS = (128, 64)
SMALLEST_SIDE = 76  # pixels; four unpadded convolutions and poolings reduce them to one


class Tutorial(Backbone):
    """The backbone `tutorial`: uint8 (N, height, width, 3) -> float32 (N, 64). There are no pretrained weights."""

    name = "tutorial"
    height, width = 400, 300
    loads_in_workers = True

    def build(self, height: int, width: int, learning: Learning = NO_LEARNING) -> Any:
        """Return the network with random weights."""
        return build_features(height, width, learning.dropout, synchronized=learning.synchronized)

    def load(self, network: Any, weights: str | None) -> bool:  # noqa: ARG002 - there are none
        """Return False: the network keeps its random weights. Raises `UsageError` if `weights` names a file."""
        self._require_no_weights(weights)
        return False

    def require_size(self, height: int, width: int) -> None:
        """Raise `UsageError` if a side is below `SMALLEST_SIDE` pixels."""
        if min(height, width) < SMALLEST_SIDE:
            raise UsageError(
                f"the tutorial network needs at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels, not {height} x {width}"
            )


def build_features(height: int, width: int, dropout: float = 0.0, *, synchronized: bool = False) -> Any:
    """Build the tutorial's network without its output layer: uint8 (N, height, width, 3) -> float32 (N, 64).

    `dropout` is the dropout rate after the first dense layer. After each convolution, the rate is half of that. 0 means
    no dropout. `synchronized` matters if several workers train under a distribution strategy. If it is true, batch
    normalisation takes its statistics over the whole batch, else over each worker's part of the batch.
    """
    import keras

    image = keras.Input((height, width, 3), dtype="uint8", name="image")
    x = keras.layers.Rescaling(1 / 255, name="scale")(image)
    for number, filters in enumerate(FILTERS, start=1):
        x = keras.layers.Conv2D(filters, KERNEL, activation="relu", name=f"convolution_{number}")(x)
        x = keras.layers.BatchNormalization(synchronized=synchronized, name=f"normalisation_{number}")(x)
        x = keras.layers.MaxPooling2D(2, name=f"pooling_{number}")(x)
        x = _dropout(x, dropout / 2, f"convolution_{number}_dropout")
    x = keras.layers.Flatten(name="flatten")(x)
    first, last = DENSE_UNITS
    x = keras.layers.Dense(first, activation="relu", name="dense_1")(x)
    x = _dropout(x, dropout, "dense_1_dropout")
    x = keras.layers.Dense(last, activation="relu", name="dense_2")(x)
    return keras.Model(image, x, name="tutorial")


def _dropout(x: Any, rate: float, name: str) -> Any:
    """Return `x` after a dropout layer, or `x` itself if the rate is 0."""
    import keras

    return keras.layers.Dropout(rate, name=name)(x) if rate else x
