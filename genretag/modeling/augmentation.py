"""Random crops, mirror images and mild colour, in the graph: uint8 in, uint8 out, as in scoring."""

from typing import Any

SMALLEST_CROP = 0.84  # of each side; posters carry their genre in the whole picture
COLOUR = 0.10  # brightness and contrast change by at most this share


def augment(images: Any) -> Any:
    """Returns changed copies of a batch: uint8 (N, height, width, 3) -> the same.

    Each poster gets its own crop (both sides drawn apart), is mirrored with probability one half, and has
    its contrast and brightness changed. One resampling does crop and mirror.
    """
    import tensorflow as tf

    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    size = tf.random.uniform((count, 2), SMALLEST_CROP, 1.0)
    corner = tf.random.uniform((count, 2)) * (1.0 - size)
    top, left = corner[:, 0], corner[:, 1]
    bottom, right = top + size[:, 0], left + size[:, 1]
    mirrored = tf.random.uniform((count,)) < 0.5
    boxes = tf.stack([top, tf.where(mirrored, right, left), bottom, tf.where(mirrored, left, right)], axis=1)
    pixels = tf.image.crop_and_resize(images, boxes, tf.range(count), (height, width))

    contrast, brightness = tf.unstack(tf.random.uniform((2, count, 1, 1, 1), 1 - COLOUR, 1 + COLOUR))
    mean = tf.reduce_mean(pixels, axis=(1, 2), keepdims=True)
    pixels = ((pixels - mean) * contrast + mean) * brightness
    return tf.cast(tf.round(tf.clip_by_value(pixels, 0.0, 255.0)), tf.uint8)
