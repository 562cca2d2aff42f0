"""Settings of `genretag bundle`: what a model of other origin takes and returns."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from genretag.errors import UsageError, quoted

if TYPE_CHECKING:
    from genretag.images.resizing import ImageRule

CHANNELS = 3
LAYOUTS = ("NHWC", "NCHW")
ORDERS = ("rgb", "bgr")
ACTIVATIONS = ("none", "sigmoid", "softmax")


@dataclass(frozen=True)
class ImportSettings:
    """Settings of `bundle`: what the model takes and returns. What is not set is read from the model.

    The value of a pixel in the model's input is `(pixel * scale - mean) / deviation`, where `pixel` is 0 to 255.
    """

    height: int | None = None
    """Height of the model's input, in pixels. When not set: read from the model."""
    width: int | None = None
    """Width of the model's input, in pixels. When not set: read from the model."""
    layout: str | None = None
    """Order of the axes of the model's input: NHWC (colours last) or NCHW (colours first). When not set: seen from the
    axis that has size 3."""
    order: str = "rgb"
    """Order of the colours in the model's input: rgb or bgr."""
    scale: str = "1"
    """Number or fraction that pixels (0 to 255) are multiplied by. 1/255 gives values from 0 to 1."""
    mean: str = "0"
    """Number that is subtracted after `scale`. One number, or one for each colour in the model's order, with commas:
    0.485,0.456,0.406."""
    deviation: str = "1"
    """Standard deviation that is divided by at the end. One number, or one for each colour in the model's order, with
    commas."""
    resize: str = "squash"
    """Way of bringing a picture to the model's size: squash, letterbox or crop."""
    bars: str = "#7f7f7f"
    """Colour of the bars of a letterbox, such as #ffffff."""
    activation: str | None = None
    """Function that turns the model's outputs into probabilities: sigmoid, softmax, or none if they are probabilities.
    When not set: none if the model ends with a sigmoid or a softmax; otherwise you must set it."""
    model_output: str | None = None
    """Name of the output that has the labels. Needed only if the model has several outputs."""
    label_column: str | None = None
    """Column of the labels in a CSV. When not set: `label`, `name` or `tag`, or the only column."""
    threshold: float = 0.5
    """Least probability at which a label is predicted."""
    threshold_column: str | None = None
    """Column of a CSV of labels that has a threshold for each label. It replaces `threshold`."""
    overwrite: bool = False
    """Replace a bundle that is already at OUTPUT."""
    dry_run: bool = False
    """Print what the bundle would be, and write nothing."""

    def __post_init__(self) -> None:
        for name, allowed in (("layout", LAYOUTS), ("order", ORDERS), ("activation", ACTIVATIONS)):
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise UsageError(f"{name} must be one of {', '.join(allowed)}, not {quoted(value)}")
        if not self.factor or 0 in self.deviations or not self.means:  # `means` raises if the numbers are wrong
            raise UsageError("scale and deviation must not be 0")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold must be from 0 to 1, not {self.threshold:g}")
        self.rule_for(self.height or 1, self.width or 1)

    def rule_for(self, height: int, width: int) -> "ImageRule":
        """Return the image rule of a model with this input size, in pixels. Raises `UsageError` if there is none."""
        from genretag.images.resizing import ImageRule  # Pillow is not needed for `--help`

        try:
            return ImageRule(height, width, self.resize, self.bars)
        except ValueError as error:
            raise UsageError(str(error)) from error

    @property
    def factor(self) -> float:
        """The number that pixels are multiplied by. Raises `UsageError` if `scale` is no number."""
        return _numbers("scale", self.scale, 1)[0]

    @property
    def means(self) -> tuple[float, ...]:
        """The mean of each colour, in the model's order. Raises `UsageError` if `mean` is not one number or three."""
        return _numbers("mean", self.mean, CHANNELS)

    @property
    def deviations(self) -> tuple[float, ...]:
        """The deviation of each colour, in the model's order. Raises `UsageError` as `means` does."""
        return _numbers("deviation", self.deviation, CHANNELS)

    def changes_values(self) -> bool:
        """Return whether the model takes other values than pixels from 0 to 255."""
        return (self.factor, set(self.means), set(self.deviations)) != (1.0, {0.0}, {1.0})


def _numbers(name: str, text: str, count: int) -> tuple[float, ...]:
    """Return `count` numbers from a text: one number for all, or `count` numbers with commas. 1/255 is a number.

    Raises `UsageError` if the text has other numbers. `name` is the setting's name for the message.
    """
    try:
        numbers = tuple(float(Fraction(part.strip())) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        numbers = ()
    if len(numbers) not in (1, count):
        wanted = "a number" if count == 1 else f"one number, or {count} with commas"
        raise UsageError(f"{name} must be {wanted} (1/255 counts as a number), not {quoted(text)}")
    return numbers if len(numbers) == count else numbers * count
