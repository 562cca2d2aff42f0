"""The settings of a training run, with the defaults that made the default bundle."""

import re
from dataclasses import dataclass
from typing import Literal

from genretag.errors import UsageError

MEMORY, NO_CACHE = "memory", "none"


@dataclass(frozen=True)
class TrainSettings:
    """How to train. Defaults: fine-tuning all of EfficientNet-Lite0 but its depthwise kernels."""

    backbone: str = "lite0"
    """EfficientNet-Lite size: lite0, lite1 or lite2."""
    height: int = 288
    """Height of the network's input, in pixels. Posters are 2:3, so portrait."""
    width: int = 192
    """Width of the network's input, in pixels."""
    workers: int | str = 2
    """Data-parallel workers: a number, or `1..4` for as many of these as there is room for, now and later. More are
    faster where each has a processor or a GPU of its own."""
    cpus_per_worker: int = 1
    """CPUs that each worker computes with."""
    gpu: bool = False
    """Give each worker a GPU."""
    mixed_precision: Literal["auto", "on", "off"] = "auto"
    """Compute in bfloat16, keep weights in float32. auto: on GPUs only; training on CPUs was slower with it."""
    head_epochs: int = 2
    """Epochs that train the head alone, on frozen ImageNet features."""
    epochs: int = 3
    """Epochs that train the whole network after that; small sets overfit from the fourth on."""
    batch_size: int = 32
    """Posters in one step over all workers together, however many these are."""
    scale_learning_rate: bool = True
    """Multiply both learning rates by the square root of batch_size / 32; their defaults were tuned at 32."""
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
    augment: bool = True
    """Show each poster a little changed each time; without, as it is."""
    average_momentum: float = 0.99
    """Momentum of the weights' moving average, which is what is validated and kept."""
    min_positives: int = 20
    """A label with fewer posters than this is left out."""
    validation_share: float = 0.1
    """Share of the posters, by a hash of the id, that choose the epoch, the temperature, the thresholds."""
    test_share: float = 0.1
    """Share of the posters, by a hash of the id, that only measure."""
    cache: str = MEMORY
    """Where decoded posters are kept between epochs: memory (Ray's object store, which goes on to disk), a folder or an
    s3:// prefix (Parquet files, which later runs read too), or none (decode in each epoch)."""
    max_failures: int = 3
    """How often lost workers are replaced, going on from the last checkpoint."""
    seed: int = 0
    """Seed of the split, of the weights and of the order of the posters."""

    def __post_init__(self) -> None:
        from genretag.modeling.efficientnet_lite import VARIANTS

        if self.backbone not in VARIANTS:
            raise UsageError(f"there is no backbone {self.backbone!r}: choose from {', '.join(VARIANTS)}")
        fewest, most = self.worker_range
        for name in ("height", "width", "cpus_per_worker", "batch_size", "min_positives"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.head_epochs < 0 or self.epochs < 0 or self.head_epochs + self.epochs < 1:
            raise UsageError("head_epochs and epochs must not be negative, and one of them must be at least 1")
        if self.batch_size < most or (fewest == most and self.batch_size % most):
            raise UsageError(f"batch_size {self.batch_size} cannot be shared by {most} workers: choose a multiple")
        if not (self.validation_share > 0 and self.test_share > 0 and self.validation_share + self.test_share < 1):
            raise UsageError("validation_share and test_share must be above 0 and together below 1")

    @property
    def worker_range(self) -> tuple[int, int]:
        """The fewest and the most workers. Raises `UsageError` where `workers` is neither a number nor a range."""
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", str(self.workers))
        fewest, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= fewest <= most:
            raise UsageError(f"workers must be a number of at least 1, or a range such as 1..4, not {self.workers!r}")
        return fewest, most

    @property
    def dtype_policy(self) -> str:
        """The name of Keras's policy of what to compute in."""
        mixed = self.gpu if self.mixed_precision == "auto" else self.mixed_precision == "on"
        return "mixed_bfloat16" if mixed else "float32"
