"""Gradients are clipped after they have been summed over all workers, so that workers do not change what is clipped.

Keras 3 clips before it sums (`BaseOptimizer.apply`, then `TFOptimizer._all_reduce_sum_gradients`): each worker's part
of a gradient, which is smaller than the whole, so that the same posters on more workers would be clipped less.
"""

from typing import Any


def clip_the_sum(optimizer: Any, replicas: int) -> None:
    """Moves an optimiser's `global_clipnorm` behind the sum over `replicas`, by public means alone.

    The sum is divided by their number again before Keras sums it once more. That costs a second exchange of
    gradients, and nothing where there is one replica.
    """
    import tensorflow as tf

    norm, apply = optimizer.global_clipnorm, optimizer.apply
    if not norm or replicas == 1:
        return

    def apply_clipped(gradients: Any, trainable_variables: Any = None) -> None:
        context = tf.distribute.get_replica_context()
        summed = context.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))
        clipped, _ = tf.clip_by_global_norm(summed, norm)
        apply([gradient / replicas for gradient in clipped], trainable_variables)

    optimizer.global_clipnorm = None
    optimizer.apply = apply_clipped
