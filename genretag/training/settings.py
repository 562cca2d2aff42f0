"""Settings of a training run, with the defaults that made the default bundle, and named recipes.

A recipe is a named set of settings. Flags, environment and settings file override the recipe, and the recipe overrides
the defaults. `tests/benchmarks/recipes.py` measures each recipe on the same test split. `docs/training.md` has the
figures.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from genretag.errors import UsageError, quoted
from genretag.settings import LabelSettings, Location

if TYPE_CHECKING:
    from genretag.images import ImageRule


SCHEDULES = ("cosine", "constant")
NOT_NEGATIVE = ("learning_rate", "head_learning_rate", "weight_decay", "clip_norm", "patience")
SHARES = ("dropout", "drop_connect", "average_momentum", "label_smoothing", "teacher_share", "margin", "colour")

MEMORY, NO_CACHE = "memory", "none"


DEFAULT_RECIPE = "fine-tune"


@dataclass(frozen=True)
class TrainSettings(LabelSettings):
    """Settings of a training run: the network, the posters, the training and the workers.

    The defaults fine-tune all of EfficientNet-Lite0 except its depthwise kernels. Raises `UsageError` if a value is out
    of range or unknown.
    """

    backbone: str = "lite0"
    """Network before the head: lite0, lite1 or lite2 (EfficientNet-Lite), clip (CLIP's image tower ViT-B/16), tutorial
    (a plain network with random weights), a name of keras.applications, such as EfficientNetV2B0, or a preset of
    KerasHub, such as siglip_base_patch16_224, or a folder that holds one."""
    weights: str | None = None
    """Weights of the backbone: a local file (of a preset: a folder), or `random`. Default: its published weights. Those
    of clip, of keras.applications and of presets are downloaded. The other nodes of a cluster do not need the file."""
    height: int = 0
    """Height of the network's input, in pixels. 0: the backbone's own, 288 for lite0, because posters are 2:3."""
    width: int = 0
    """Width of the network's input, in pixels. 0: the backbone's own, 192 for lite0."""
    resize: str = "squash"
    """Method for images of another shape: squash (stretch), letterbox (add grey bars) or crop (cut the edges)."""
    workers: int | str = 2
    """Data-parallel workers: a number, or a range such as `1..4`. With a range, training uses as many as fit into
    the cluster, and adapts when nodes come or go. More workers are faster if each has its own processor or GPU."""
    cpus_per_worker: int = 1
    """CPUs that each worker computes with."""
    gpu: bool = False
    """Give each worker a GPU."""
    mixed_precision: Literal["auto", "on", "off"] = "auto"
    """Compute in bfloat16 and keep weights in float32. auto: on GPUs only, because CPUs trained slower with it."""
    head_epochs: int = 2
    """Epochs that train only the head, on frozen ImageNet features. 0 skips them."""
    linear_probe: bool = False
    """Fit the head by logistic regression on features that the frozen backbone computes once, in place of the head
    epochs. The loss is bce, without augmentation."""
    epochs: int = 3
    """Epochs of fine-tuning after the head epochs. Small sets overfit from the fourth epoch on. 0 skips them."""
    unfreeze: float = 1.0
    """Share of the backbone's layers that fine-tuning trains, from the last layer on. 1 trains all, 0 none."""
    batch_size: int = 32
    """Posters in one training step, of all workers together."""
    scale_learning_rate: bool = True
    """Multiply both learning rates by the square root of batch_size / 32. Their defaults were tuned at 32."""
    head_learning_rate: float = 2e-3
    """Learning rate of Adam while only the head trains."""
    learning_rate: float = 2e-4
    """Highest learning rate of AdamW in fine-tuning."""
    schedule: str = "cosine"
    """Schedule of the fine-tuning rate: cosine (a warm-up of at most 100 steps, then decay to zero) or constant."""
    weight_decay: float = 0.02
    """Weight decay of AdamW."""
    clip_norm: float = 1.0
    """Largest norm of the gradient in fine-tuning. A larger gradient is scaled down to it. 0 does not clip."""
    loss: str = "bce"
    """Loss: bce (binary cross-entropy), asymmetric or focal. The last two suit labels that few posters have."""
    gamma_positive: float = 1.0
    """Asymmetric loss: a higher value gives less weight to present labels with a high probability. 0 turns this off."""
    gamma_negative: float = 4.0
    """Asymmetric loss: a higher value gives less weight to absent labels with a low probability. 0 turns this off."""
    margin: float = 0.05
    """Asymmetric loss: an absent label with a probability below this margin does not count."""
    label_weights: str = "none"
    """Weight of a label in the loss: none (all equal), or sqrt (square root of the inverse frequency)."""
    balanced_sampling: bool = False
    """Draw the training posters with replacement, those with rare labels more often. Other splits do not change."""
    label_smoothing: float = 0.0
    """Move the training labels towards one half by this share. 0 leaves them unchanged."""
    teacher_share: float = 0.7
    """With --teacher: share of the teachers' probabilities in the training targets. The rest is the labels."""
    flip: bool = True
    """Mirror half of the posters."""
    min_crop: float = 0.84
    """Smallest random crop, as a share of each side. 1 does not crop. Small crops can lose what shows the genre."""
    colour: float = 0.10
    """Brightness and contrast change by at most this share. 0 does not change them."""
    dropout: float = 0.5
    """Share of the features that the head does not see in a step. Also applies to the dense layers of `tutorial`."""
    drop_connect: float = 0.25
    """Drop rate of the residual branch in the last block. Earlier blocks have lower rates."""
    average_momentum: float = 0.99
    """Momentum of the moving average of the weights. The bundle gets the average. 0 turns averaging off."""
    patience: int = 0
    """End training after this many epochs without a better validation macro mAP. 0 trains all epochs."""
    min_positives: int = 20
    """Leave out labels with fewer posters than this."""
    validation_share: float = 0.1
    """Share of the posters, by a hash of the id, that choose the epoch, the calibration and the thresholds."""
    test_share: float = 0.1
    """Share of the posters, by a hash of the id, that only measure."""
    cache: Location = MEMORY
    """Storage of decoded posters between epochs. memory: Ray's object store, which spills to disk. A folder or a
    prefix of a bucket: Parquet files, which later runs read too. none: decode in each epoch."""
    max_failures: int = 3
    """Number of times that lost workers are replaced, each time from the last checkpoint."""
    summary: bool = False
    """Show the network's layers and parameters before it trains."""
    seed: int = 0
    """Seed of the split, the weights and the order of the posters."""

    def __post_init__(self) -> None:
        self._complete()
        self._check_choices()
        fewest, most = self.worker_range
        for name in ("height", "width", "cpus_per_worker", "batch_size", "min_positives"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.head_epochs < 0 or self.epochs < 0 or self.head_epochs + self.epochs + self.linear_probe < 1:
            raise UsageError("head_epochs and epochs must not be negative, and one of them must be at least 1")
        if self.batch_size < most or (fewest == most and self.batch_size % most):
            raise UsageError(f"batch_size {self.batch_size} cannot be shared by {most} workers: choose a multiple")
        if not (self.validation_share > 0 and self.test_share > 0 and self.validation_share + self.test_share < 1):
            raise UsageError("validation_share and test_share must be above 0 and together below 1")
        self._check_ranges()

    @property
    def rule(self) -> "ImageRule":
        """Return the image rule: the input size and the method that resizes an image to it."""
        from genretag.images import ImageRule

        return ImageRule(self.height, self.width, self.resize)

    @property
    def worker_range(self) -> tuple[int, int]:
        """Return the smallest and the largest number of workers. If `workers` is one number, both are that number.

        Raises `UsageError` if `workers` is neither a number of at least 1 nor a range.
        """
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", str(self.workers))
        fewest, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= fewest <= most:
            raise UsageError(f"workers must be a number of at least 1, or a range such as 1..4, not {self.workers!r}")
        return fewest, most

    @property
    def dtype_policy(self) -> str:
        """Return the name of Keras's dtype policy, `mixed_bfloat16` or `float32`, from `mixed_precision` and `gpu`."""
        mixed = self.gpu if self.mixed_precision == "auto" else self.mixed_precision == "on"
        return "mixed_bfloat16" if mixed else "float32"

    def _complete(self) -> None:
        """Set the settings that depend on others: the backbone's own size, and no head epochs with a linear probe.

        Raises `UsageError` if there is no such backbone.
        """
        from genretag.model.backbones import backbone_named

        backbone = backbone_named(self.backbone)
        object.__setattr__(self, "height", self.height or backbone.height)
        object.__setattr__(self, "width", self.width or backbone.width)
        if self.linear_probe:
            object.__setattr__(self, "head_epochs", 0)

    def _check_choices(self) -> None:
        """Raise `UsageError` if a setting names an unknown choice, or if the input does not fit the backbone."""
        from genretag.images.resizing import RESIZES
        from genretag.model.backbones import backbone_named
        from genretag.model.losses import LOSSES, WEIGHTINGS

        _one_of(RESIZES, "resize", self.resize)
        _one_of(SCHEDULES, "schedule", self.schedule)
        _one_of(LOSSES, "loss", self.loss)
        _one_of(WEIGHTINGS, "weighting of labels", self.label_weights)
        if self.height > 0 and self.width > 0:  # the check of the ranges says more about other sizes
            backbone_named(self.backbone).require_size(self.height, self.width)
        if self.linear_probe and (self.loss != "bce" or self.label_weights != "none" or self.balanced_sampling):
            raise UsageError("a linear probe has the loss bce, with equal weights of labels and posters")

    def _check_ranges(self) -> None:
        """Raise `UsageError` for a number that is out of range."""
        for name in NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, but is {getattr(self, name)}")
        for name in SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        for name in ("gamma_positive", "gamma_negative"):  # between 0 and 1, the gradient can be infinite
            if not (getattr(self, name) == 0 or getattr(self, name) >= 1):
                raise UsageError(f"{name} must be 0, or at least 1, not {getattr(self, name)}")
        if not 0 <= self.unfreeze <= 1:
            raise UsageError(f"unfreeze must be a share from 0 to 1, not {self.unfreeze}")
        if not 0 < self.min_crop <= 1:
            raise UsageError(f"min_crop must be above 0 and at most 1, not {self.min_crop}")


def _one_of(choices: Iterable[str], what: str, chosen: str) -> None:
    """Raise `UsageError` if `chosen` is none of the `choices`. `what` names the setting in the message."""
    if chosen not in choices:
        raise UsageError(f"there is no {what} {quoted(chosen)}: choose from {', '.join(choices)}")


RECIPES: Mapping[str, Mapping[str, Any]] = {
    # The published tutorial, with two differences: a hash of the id decides the split, and there is a test split.
    "tutorial": {
        "backbone": "tutorial",
        "height": 400,
        "width": 300,
        "min_positives": 1,  # all 25 labels, including the pseudo label N/A
        "head_epochs": 0,
        "epochs": 10,
        "batch_size": 64,
        "learning_rate": 1e-3,  # Keras's default for Adam, at any batch size
        "scale_learning_rate": False,
        "schedule": "constant",
        "weight_decay": 0.0,  # without weight decay, AdamW is Adam
        "clip_norm": 0.0,
        "average_momentum": 0.0,
        "dropout": 0.5,
        "min_crop": 1.0,
        "colour": 0.0,
        "flip": False,
        "validation_share": 0.1,
        "summary": True,
    },
    "frozen": {"head_epochs": 6, "epochs": 0},
    "fine-tune": {},
    "lite2": {"backbone": "lite2"},
    "clip": {"backbone": "clip", "linear_probe": True, "epochs": 0},
    "large": {"height": 384, "width": 256},
}


def recipe(name: str) -> dict[str, Any]:
    """Return the values that the recipe `name` changes, by setting. Raises `UsageError` if there is no such recipe."""
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(RECIPES)}"
        raise UsageError(f"there is no recipe {quoted(name)}: {hint}")
    return dict(RECIPES[name])


def settings_of(name: str, **changes: Any) -> TrainSettings:
    """Return the settings of the recipe `name`, with `changes` on top: `settings_of("tutorial", epochs=3)`.

    Raises `UsageError` if there is no such recipe, or if a value is out of range.
    """
    return TrainSettings(**{**recipe(name), **changes})


RECIPE_SOURCE = "recipe "  # marks values of the command line that come from a recipe


@dataclass(frozen=True)
class TrainRunSettings:
    """Settings of one call of `train`: recipe, teachers (bundles to learn from), checkpoints and output.

    `TrainSettings` has all other settings. Raises `UsageError` if `resume` is given without `checkpoints`.
    """

    recipe: str = DEFAULT_RECIPE
    """A named set of settings: tutorial, frozen, fine-tune, lite2, clip or large. Your other settings override it."""
    teacher: tuple[Location, ...] = ()
    """A bundle whose probabilities the network learns in addition to the labels. May be given several times."""
    checkpoints: Location | None = None
    """Folder or prefix of a bucket for checkpoints. All nodes must be able to reach it. Default: a local temporary
    folder. A run that succeeds deletes its checkpoints."""
    resume: bool = False
    """Go on with the interrupted run that left its checkpoints in --checkpoints."""
    overwrite: bool = False
    """Replace a bundle that is already there."""

    def __post_init__(self) -> None:
        if self.resume and not self.checkpoints:
            raise UsageError("--resume needs --checkpoints: the folder of the run that is to go on")


ONE_RUN = TrainRunSettings()
