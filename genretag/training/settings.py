"""The settings of a training run, with the defaults that made the default bundle."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from genretag.errors import UsageError, quoted
from genretag.label_csv.settings import LabelSettings

if TYPE_CHECKING:
    from genretag.images import ImageRule

SCHEDULES = ("cosine", "constant")
NOT_NEGATIVE = ("learning_rate", "head_learning_rate", "weight_decay", "clip_norm", "patience")
SHARES = ("dropout", "drop_connect", "average_momentum", "label_smoothing", "teacher_share", "margin", "colour")

MEMORY, NO_CACHE = "memory", "none"


@dataclass(frozen=True)
class TrainSettings(LabelSettings):
    """How to train. Defaults: fine-tuning all of EfficientNet-Lite0 but its depthwise kernels."""

    backbone: str = "lite0"
    """EfficientNet-Lite size: lite0, lite1 or lite2; or tutorial, a plain network that starts from nothing."""
    height: int = 288
    """Height of the network's input, in pixels. Posters are 2:3, so portrait."""
    width: int = 192
    """Width of the network's input, in pixels."""
    resize: str = "squash"
    """How a picture of another shape fits: squash, letterbox (aspect kept, grey bars) or crop (aspect kept)."""
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
    """AdamW's highest rate in fine-tuning."""
    schedule: str = "cosine"
    """Its course: cosine (a warm-up of 100 steps, then decay to zero) or constant."""
    weight_decay: float = 0.02
    """AdamW's weight decay."""
    clip_norm: float = 1.0
    """A fine-tuning step's gradient is scaled down to this norm; 0 leaves it as it is."""
    loss: str = "bce"
    """Binary cross-entropy (bce), or a form of it for labels of which most are absent: asymmetric or focal."""
    gamma_positive: float = 1.0
    """Of the asymmetric loss: the higher, the less a present label counts that the network is sure of."""
    gamma_negative: float = 4.0
    """Of the asymmetric loss: the same for an absent label."""
    margin: float = 0.05
    """Of the asymmetric loss: an absent label below this probability counts nothing."""
    label_weights: str = "none"
    """A label's weight in the loss: none, or sqrt (of its inverse frequency)."""
    balanced_sampling: bool = False
    """Show training posters of rare labels more often: drawn anew with replacement, after the split."""
    label_smoothing: float = 0.0
    """Move the labels that the network learns this much towards one half."""
    teacher_share: float = 0.7
    """With --teacher: how much of what the network learns is the teachers' answers; the rest is the labels."""
    flip: bool = True
    """Mirror half of the posters."""
    min_crop: float = 0.84
    """Smallest random crop, as a share of each side; 1 crops nothing. A genre shows in the whole poster."""
    colour: float = 0.10
    """Brightness and contrast change by at most this share."""
    dropout: float = 0.5
    """Share of the features that the head does not see in a step; also in the dense layers of `tutorial`."""
    drop_connect: float = 0.25
    """Rate at which the last block's residual branch is dropped; earlier blocks less."""
    average_momentum: float = 0.99
    """Momentum of the weights' moving average, which is what is validated and kept; 0 keeps the weights themselves."""
    patience: int = 0
    """End training after this many epochs without a better validation macro mAP; 0 trains them all."""
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
    summary: bool = False
    """Show the network's layers and parameters before it trains."""
    seed: int = 0
    """Seed of the split, of the weights and of the order of the posters."""

    def __post_init__(self) -> None:
        self._check_choices()
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
        self._check_ranges()

    @property
    def rule(self) -> "ImageRule":
        """What the network sees of a picture."""
        from genretag.images import ImageRule

        return ImageRule(self.height, self.width, self.resize)

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

    def _check_choices(self) -> None:
        from genretag.images.resizing import RESIZES
        from genretag.modeling.balance import WEIGHTINGS
        from genretag.modeling.losses import LOSSES
        from genretag.modeling.network import BACKBONES, smallest_side

        _one_of(BACKBONES, "backbone", self.backbone)
        _one_of(RESIZES, "resize", self.resize)
        _one_of(SCHEDULES, "schedule", self.schedule)
        _one_of(LOSSES, "loss", self.loss)
        _one_of(WEIGHTINGS, "weighting of labels", self.label_weights)
        if min(self.height, self.width) < (smallest := smallest_side(self.backbone)):
            raise UsageError(
                f"the {self.backbone} network needs at least {smallest} x {smallest} pixels, "
                f"not {self.height} x {self.width}"
            )

    def _check_ranges(self) -> None:
        for name in NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, but is {getattr(self, name)}")
        for name in SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        for name in ("gamma_positive", "gamma_negative"):  # between them the loss is infinitely steep
            if not (getattr(self, name) == 0 or getattr(self, name) >= 1):
                raise UsageError(f"{name} must be 0, or at least 1, not {getattr(self, name)}")
        if not 0 < self.min_crop <= 1:
            raise UsageError(f"min_crop must be above 0 and at most 1, not {self.min_crop}")


def _one_of(choices: Iterable[str], what: str, chosen: str) -> None:
    if chosen not in choices:
        raise UsageError(f"there is no {what} {quoted(chosen)}: choose from {', '.join(choices)}")
