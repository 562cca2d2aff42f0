"""Random crops, mirror images and mild colour, in the graph: uint8 in, uint8 out, as in scoring.

No rotation: posters hang upright, and so do their letters.
"""

from typing import Any


def augment(images: Any, *, min_crop: float, colour: float, flip: bool) -> Any:
    """Returns changed copies of a batch: uint8 (N, height, width, 3) -> the same.

    Each poster gets its own crop of `min_crop` to all of each side (drawn apart), is mirrored with probability one
    half if `flip`, and has its contrast and brightness changed by at most the share `colour`. One resampling does
    crop and mirror; with nothing to do the pixels stay as they are.
    """
    if min_crop == 1 and not colour and not flip:
        return images
    if min_crop < 1 or flip:
        images = _cropped_and_mirrored(images, min_crop, flip)
    return _recoloured(images, colour)


def _cropped_and_mirrored(images: Any, min_crop: float, flip: bool) -> Any:
    import tensorflow as tf

    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    size = tf.random.uniform((count, 2), min_crop, 1.0)
    corner = tf.random.uniform((count, 2)) * (1.0 - size)
    top, left = corner[:, 0], corner[:, 1]
    bottom, right = top + size[:, 0], left + size[:, 1]
    mirrored = tf.random.uniform((count,)) < (0.5 if flip else 0.0)
    boxes = tf.stack([top, tf.where(mirrored, right, left), bottom, tf.where(mirrored, left, right)], axis=1)
    return tf.image.crop_and_resize(images, boxes, tf.range(count), (height, width))


def _recoloured(images: Any, colour: float) -> Any:
    import tensorflow as tf

    pixels = tf.cast(images, tf.float32)
    contrast, brightness = tf.unstack(tf.random.uniform((2, tf.shape(pixels)[0], 1, 1, 1), 1 - colour, 1 + colour))
    mean = tf.reduce_mean(pixels, axis=(1, 2), keepdims=True)
    pixels = ((pixels - mean) * contrast + mean) * brightness
    return tf.cast(tf.round(tf.clip_by_value(pixels, 0.0, 255.0)), tf.uint8)
