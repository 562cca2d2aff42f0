"""Resize pictures of any shape to the height and width of a model's input, by the `ImageRule` in the model bundle."""

import re
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any

from PIL import Image, ImageColor

RESIZES = {
    "squash": "the whole picture, stretched to the height and width",
    "letterbox": "the whole picture in its aspect ratio, with bars of one colour on two opposite sides",
    "crop": "the middle of the picture in its aspect ratio, with equal parts cut off on two opposite sides",
}

# The default colour of the bars of a letterbox, a grey. Our models compute (x - 127) / 128, so a bar becomes zero, like
# the padding of their convolutions beyond the edge of a picture. Bars in the mean colour of the picture would differ
# for each picture, and a model would have to learn to ignore them.
BARS = "#7f7f7f"
_COLOUR = re.compile(r"#[0-9a-f]{6}")

# Pillow's filters become wider as the picture shrinks, so they antialias. Bicubic takes 0.2 to 0.4 ms more per poster.
_FILTER = Image.Resampling.BILINEAR


@dataclass(frozen=True)
class ImageRule:
    """The height and width (in pixels) of a model's input, and the way of resizing. The model's bundle stores the rule.

    Raises ValueError if the height or width is below 1, if `resize` is not in RESIZES, or if `bars` is not a colour
    such as #ffffff.
    """

    height: int
    width: int
    resize: str = "squash"  # one of RESIZES
    bars: str = BARS  # colour of the bars of a letterbox

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(f"image height and width must be positive, not {self.height} x {self.width}")
        if self.resize not in RESIZES:
            raise ValueError(f"unknown resize {self.resize!r}; known: {', '.join(RESIZES)}")
        if not _COLOUR.fullmatch(self.bars):
            raise ValueError(f"bars must be a colour such as #ffffff, not {self.bars!r}")

    def facts(self) -> dict[str, Any]:
        """Return the entry of `bundle.json` about the rule, which `ImageRule(**facts)` reads.

        `bars` is left out if it is the default, because bundles from before this field lack it too. The entry decides
        the bundle's `model_version`.
        """
        return {name: value for name, value in asdict(self).items() if (name, value) != ("bars", BARS)}

    def turned(self) -> "ImageRule":
        """Return the rule with height and width exchanged, for a picture that is turned by 90 degrees later."""
        return replace(self, height=self.width, width=self.height)

    def scaled_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (width, height) to which a whole picture of `size` (width, height) is scaled, at least 1 x 1.

        If `resize` is `crop`, this is the size before parts are cut off. A decoder must not reduce the picture below
        this width or this height.
        """
        if self.resize == "squash":
            return self.width, self.height
        scales = self.width / size[0], self.height / size[1]
        if self.resize == "letterbox":
            inside = min(scales)
            return max(1, round(size[0] * inside)), max(1, round(size[1] * inside))
        beyond = max(scales)  # one product below is a whole number, apart from the error of floats that `round` removes
        return ceil(round(size[0] * beyond, 6)), ceil(round(size[1] * beyond, 6))

    def resized(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """Return `image` resized to the rule's size. A `letterbox` result may be smaller, because it has no bars yet.

        `image` must not have a palette, because the resize averages its values. `size` is the (width, height) of the
        picture before a decoder reduced it.
        """
        if self.resize != "crop":
            return image.resize(self.scaled_size(size), _FILTER)
        kept = size[1] * self.width / (size[0] * self.height)  # share of the width to use; above 1, 1 / kept of height
        across, down = (image.width * (1 - min(1, kept)) / 2, image.height * (1 - min(1, 1 / kept)) / 2)
        box = (across, down, image.width - across, image.height - down)
        return image.resize((self.width, self.height), _FILTER, box=box)

    def with_bars(self, image: Image.Image) -> Image.Image:
        """Return `image` in exactly the size of the rule, with bars where `image` is smaller.

        `image` is an upright RGB picture that `resized` returned.
        """
        if image.size == (self.width, self.height):
            return image
        canvas = Image.new("RGB", (self.width, self.height), ImageColor.getrgb(self.bars))
        canvas.paste(image, ((self.width - image.width) // 2, (self.height - image.height) // 2))
        return canvas
