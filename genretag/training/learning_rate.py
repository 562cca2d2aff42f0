"""How the learning rate follows the batch: rates are tuned at one size of batch, and trained with at another."""

from dataclasses import replace

from genretag.training.settings import TrainSettings

TUNED_AT = 32  # posters in a step, for which the defaults were found


def rate_factor(batch_size: int, optimizer: str = "adam") -> float:
    """What to multiply a rate by that was tuned at batches of `TUNED_AT`.

    `adam`, and what divides gradients by their root mean square as it does: the square root of the ratio (Malladi et
    al. 2022, arXiv:2205.10287). `sgd`, with or without momentum: the ratio itself (Goyal et al. 2017,
    arXiv:1706.02677). Neither holds for batches of any size; both authors warm up, and so do we.
    """
    ratio = batch_size / TUNED_AT
    return {"adam": ratio**0.5, "sgd": ratio}[optimizer]


def with_scaled_rates(settings: TrainSettings) -> TrainSettings:
    """The settings with the rates that this batch is trained with: all optimisers here are Adam's kin."""
    if not settings.scale_learning_rate:
        return settings
    factor = rate_factor(settings.batch_size)
    return replace(
        settings,
        head_learning_rate=settings.head_learning_rate * factor,
        learning_rate=settings.learning_rate * factor,
    )
