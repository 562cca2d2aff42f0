"""Pointwise (1 x 1) convolutions as products of matrices, for training on CPUs.

Import this module where a network is built, because it imports Keras and TensorFlow.
"""

from typing import Any

import keras
import tensorflow as tf


class PointwiseConvolution(keras.layers.Conv2D):  # type: ignore[misc]
    """A `keras.layers.Conv2D` with kernel 1, stride 1 and bias. It has the same weights and gives the same outputs.

    It multiplies pixels (n * height * width, filters_in) with the kernel (filters_in, filters). So its gradients are
    products of matrices too. On CPUs, these take less time than TensorFlow's gradients of convolutions.
    """

    def call(self, inputs: Any) -> Any:
        """Return float (n, height, width, filters). `inputs` is float (n, height, width, filters_in)."""
        height, width, filters_in = inputs.shape[1:]
        pixels = tf.reshape(inputs, (-1, filters_in))
        kernel = tf.reshape(self.kernel, (filters_in, self.filters))
        outputs = tf.nn.bias_add(tf.matmul(pixels, kernel), self.bias)
        return tf.reshape(outputs, (-1, height, width, self.filters))
