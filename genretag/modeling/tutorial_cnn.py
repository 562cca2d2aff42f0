"""The plain network of the best known tutorial on this task, to have beside what is better.

P. Sharma, "Build your First Multi-Label Image Classification Model in Python" (Analytics Vidhya, 2019): four
convolutions with batch normalisation, two dense layers, trained from nothing.
"""

from typing import Any

FILTERS = (16, 32, 64, 64)
KERNEL = 5
DENSE_UNITS = (128, 64)
SMALLEST_SIDE = 76  # in pixels: what four unpadded convolutions, each halved after it, leave one of


def build_features(height: int, width: int, dropout: float = 0.0, *, synchronized: bool = False) -> Any:
    """Builds the network up to its last hidden layer: uint8 (N, height, width, 3) -> float32 (N, 64).

    `dropout` is the rate between the dense layers; after a convolution it is half of that. `synchronized` takes the
    statistics of batch normalisation over all workers' shares of a batch, under a distribution strategy.
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
    import keras

    return keras.layers.Dropout(rate, name=name)(x) if rate else x
