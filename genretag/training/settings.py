"""The settings of a training run, with the defaults that made the default bundle."""

from dataclasses import dataclass

from genretag.errors import UsageError


@dataclass(frozen=True)
class TrainSettings:
    """How to train. Defaults: fine-tuning all of EfficientNet-Lite0 but its depthwise kernels."""

    backbone: str = "lite0"
    """EfficientNet-Lite size: lite0, lite1 or lite2."""
    height: int = 288
    """Height of the network's input, in pixels. Posters are 2:3, so portrait."""
    width: int = 192
    """Width of the network's input, in pixels."""
    workers: int = 2
    """Data-parallel workers. More are faster where each has a processor or a GPU of its own."""
    cpus_per_worker: int = 1
    """CPUs that each worker computes with."""
    gpu: bool = False
    """Give each worker a GPU."""
    head_epochs: int = 2
    """Epochs that train the head alone, on frozen ImageNet features."""
    epochs: int = 3
    """Epochs that train the whole network after that; small sets overfit from the fourth on."""
    batch_size: int = 32
    """Posters in one step over all workers together."""
    head_learning_rate: float = 2e-3
    """Adam's rate while the head trains alone."""
    learning_rate: float = 2e-4
    """AdamW's highest rate in fine-tuning: a warm-up of 100 steps, then cosine decay to zero."""
    weight_decay: float = 0.02
    """AdamW's weight decay."""
    dropout: float = 0.5
    """Share of the features that the head does not see in a step."""
    drop_connect: float = 0.25
    """Rate at which the last block's residual branch is dropped; earlier blocks less."""
    average_momentum: float = 0.99
    """Momentum of the weights' moving average, which is what is validated and kept."""
    min_positives: int = 20
    """A label with fewer posters than this is left out."""
    validation_share: float = 0.1
    """Share of the posters, by a hash of the id, that choose the epoch, the temperature, the thresholds."""
    test_share: float = 0.1
    """Share of the posters, by a hash of the id, that only measure."""
    max_failures: int = 3
    """How often lost workers are replaced, going on from the last checkpoint."""
    seed: int = 0
    """Seed of the split, of the weights and of the order of the posters."""

    def __post_init__(self) -> None:
        from genretag.modeling.efficientnet_lite import VARIANTS

        if self.backbone not in VARIANTS:
            raise UsageError(f"there is no backbone {self.backbone!r}: choose from {', '.join(VARIANTS)}")
        for name in ("height", "width", "workers", "cpus_per_worker", "batch_size", "min_positives"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.head_epochs < 0 or self.epochs < 0 or self.head_epochs + self.epochs < 1:
            raise UsageError("head_epochs and epochs must not be negative, and one of them must be at least 1")
        if self.batch_size % self.workers:
            raise UsageError(
                f"batch_size {self.batch_size} cannot be shared by {self.workers} workers: choose a multiple"
            )
        if not (self.validation_share > 0 and self.test_share > 0 and self.validation_share + self.test_share < 1):
            raise UsageError("validation_share and test_share must be above 0 and together below 1")
