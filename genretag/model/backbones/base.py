"""What every backbone offers. A backbone is a network up to its features, the vector that a linear head reads."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from genretag.errors import UsageError, quoted

RANDOM = "random"  # in place of a file of weights: start from random weights


@dataclass(frozen=True)
class Learning:
    """Parts of a network that matter only while it trains. None of them changes the network's list of weights.

    `dropout` is the rate before the head, and in the dense layers of `tutorial`. `drop_connect` is the rate at which
    training skips residual branches (stochastic depth, arXiv:1603.09382), in `lite0` to `lite2` and `clip`: block i of
    n has the rate `drop_connect` * i / n. If `synchronized`, the batch normalisation of `tutorial` takes its statistics
    over the batches of all workers. If `on_cpu`, the pointwise convolutions of `lite0` to `lite2` train faster on CPUs
    (see `pointwise.py`), but they are no stock layers.
    """

    dropout: float = 0.0
    drop_connect: float = 0.0
    synchronized: bool = False
    on_cpu: bool = False


NO_LEARNING = Learning()
PREPROCESSING = "preprocessing"  # the layer of a network that `preprocessed` adds


def preprocessed(height: int, width: int, kernel: np.ndarray, bias: np.ndarray) -> tuple[Any, Any]:
    """Return the input of a network, uint8 (N, height, width, 3), and its colours `pixels @ kernel + bias`, float32.

    A convolution of size 1 computes the colours. `kernel` is float32 (3, 3), and `bias` float32 (3,).
    """
    import keras

    image = keras.Input((height, width, 3), dtype="uint8", name="image")
    colours = keras.layers.Conv2D(3, 1, name=PREPROCESSING, trainable=False)
    values = colours(keras.layers.Rescaling(1.0, name="as_float")(image))
    colours.set_weights([kernel[None, None], bias])
    return image, values


def set_after_preprocessing(network: Any, arrays: list[np.ndarray]) -> None:
    """Set the weights that follow the layer of `preprocessed`. A head after them keeps its weights."""
    values = network.get_weights()
    before = len(network.get_layer(PREPROCESSING).weights)
    network.set_weights([*values[:before], *arrays, *values[before + len(arrays) :]])


class Backbone(ABC):
    """A network up to its features: uint8 (N, height, width, 3) -> float32 (N, features).

    `name` is what `--backbone` calls it. `height` and `width` are the input size in pixels that training takes if the
    user names none.
    """

    name: str
    height: int
    width: int
    loads_in_workers = False  # the pretrained weights come with an installed package, so each worker reads them itself

    @abstractmethod
    def build(self, height: int, width: int, learning: Learning = NO_LEARNING) -> Any:
        """Return the network as a Keras model with random weights."""

    @abstractmethod
    def load(self, network: Any, weights: str | None) -> bool:
        """Set the pretrained weights. Return False if there are none, so the network keeps its random weights.

        `network` is what `build` returned, or that network with a head. `weights` is the location of a file or folder,
        `RANDOM`, or None for the library's own weights. Raises `UsageError` if the weights cannot be had.
        """

    def require_size(self, height: int, width: int) -> None:  # noqa: B027 - for backbones that say otherwise
        """Raise `UsageError` if the network cannot take images of this size, in pixels. Default: it takes any."""

    def never_trains(self, layer: Any) -> bool:  # noqa: ARG002 - for backbones that say otherwise
        """Return True if fine-tuning leaves a layer of the network as it is."""
        return False

    def _require_no_weights(self, weights: str | None) -> None:
        """Raise `UsageError` if `weights` names a file, for a backbone that reads none."""
        if weights not in (None, RANDOM):
            raise UsageError(
                f"the backbone {self.name} reads no file of weights: leave out --weights {quoted(weights)}"
            )
