"""How a picture of any shape takes the one shape that a model sees: the rule that a bundle keeps."""

from dataclasses import dataclass, replace
from math import ceil

from PIL import Image

RESIZES = {
    "squash": "the whole picture, its aspect ratio given up",
    "letterbox": "the whole picture, its aspect ratio kept, bars beside it",
    "crop": "the aspect ratio kept, what stands over cut off on both sides alike",
}

# Of a letterbox. The backbones take (x - 127) / 128, so that a bar is what their convolutions see beyond the edge of
# any picture: zero. The picture's own mean colour would be another bar for each picture, and one to learn from.
BAR = (127, 127, 127)

# Pillow's filters widen as the picture shrinks, so they antialias. Bicubic costs .2 to .4 ms more per poster.
_FILTER = Image.Resampling.BILINEAR


@dataclass(frozen=True)
class ImageRule:
    """What a model wants to see, stored in its bundle: one rule for every reader. ValueError if invalid."""

    height: int
    width: int
    resize: str = "squash"  # one of RESIZES

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(f"image height and width must be positive, not {self.height} x {self.width}")
        if self.resize not in RESIZES:
            raise ValueError(f"unknown resize {self.resize!r}; known: {', '.join(RESIZES)}")

    def turned(self) -> "ImageRule":
        """The same rule for a picture that lies on its side."""
        return replace(self, height=self.width, width=self.height)

    def scaled_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) that a whole picture of `size` (width, height) is scaled to, at least 1 x 1.

        Not below it in either direction may a decoder reduce the picture.
        """
        if self.resize == "squash":
            return self.width, self.height
        scales = self.width / size[0], self.height / size[1]
        if self.resize == "letterbox":
            inside = min(scales)
            return max(1, round(size[0] * inside)), max(1, round(size[1] * inside))
        beyond = max(scales)  # its product is a whole number on one side, but for the last bits of a float
        return ceil(round(size[0] * beyond, 6)), ceil(round(size[1] * beyond, 6))

    def resized(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """`image` in the rule's size, but for the bars of a letterbox; its mode must be one that may be averaged.

        `size` is its own (width, height) before a decoder reduced it.
        """
        if self.resize != "crop":
            return image.resize(self.scaled_size(size), _FILTER)
        kept = size[1] * self.width / (size[0] * self.height)  # of its width; above 1, 1 / kept of its height
        across, down = (image.width * (1 - min(1, kept)) / 2, image.height * (1 - min(1, 1 / kept)) / 2)
        box = (across, down, image.width - across, image.height - down)
        return image.resize((self.width, self.height), _FILTER, box=box)

    def with_bars(self, image: Image.Image) -> Image.Image:
        """An upright RGB picture that was `resized`, in exactly the rule's size."""
        if image.size == (self.width, self.height):
            return image
        canvas = Image.new("RGB", (self.width, self.height), BAR)
        canvas.paste(image, ((self.width - image.width) // 2, (self.height - image.height) // 2))
        return canvas
