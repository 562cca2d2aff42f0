"""The drawing style of each genre of poster: the colours of the sky, and the shapes in front of the sky."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from PIL import Image, ImageDraw

Point = tuple[float, float]
RIM = 181  # the value of Pillow's radial gradient in the middle of each side
INK = "#07060a"  # almost black


class Canvas:
    """An image to paint on. Coordinates are in units of the image's width: x from 0 to 1, y from 0 to about 1.5.

    A colour is `#rrggbb`, or `#rrggbbaa` to blend with the image below. `size` is in pixels. `colours` are the colours
    of the background from top to bottom, separated by spaces.
    """

    def __init__(self, size: tuple[int, int], colours: str, random: Random) -> None:
        self.random, self.unit = random, size[0]
        stops = Image.new("RGB", (1, len(colours.split())))
        for row, colour in enumerate(colours.split()):
            stops.paste(colour, (0, row, 1, row + 1))
        column = stops.resize((1, size[1]), Image.Resampling.BILINEAR)
        self.image = column.resize(size, Image.Resampling.NEAREST)
        self.opaque, self.blending = ImageDraw.Draw(self.image), ImageDraw.Draw(self.image, "RGBA")

    def pen(self, colour: str) -> ImageDraw.ImageDraw:
        """Return the `ImageDraw` for a colour. If the colour has an alpha value, it is blended with the image."""
        return self.blending if len(colour) == len("#rrggbbaa") else self.opaque  # blending takes twice as long

    def polygon(self, points: Iterable[Point], colour: str) -> None:
        """Fill the polygon with these corners."""
        self.pen(colour).polygon([(x * self.unit, y * self.unit) for x, y in points], fill=colour)

    def line(self, points: Iterable[Point], colour: str, width: float) -> None:
        """Draw a line through the points. `width` is in units of the canvas width. The line has at least one pixel."""
        pixels = [(x * self.unit, y * self.unit) for x, y in points]
        self.pen(colour).line(pixels, fill=colour, width=max(1, round(width * self.unit)), joint="curve")

    def disc(self, x: float, y: float, radius: float, colour: str, squash: float = 1.0) -> None:
        """Fill a disc around (x, y). `squash` is the height of the disc divided by its width."""
        box = (x - radius, y - radius * squash, x + radius, y + radius * squash)
        self.pen(colour).ellipse([side * self.unit for side in box], fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        """Fill a rectangle."""
        self.pen(colour).rectangle([side * self.unit for side in (left, top, right, bottom)], fill=colour)

    def glow(self, x: float, y: float, radius: float, colour: str) -> None:
        """Paint a glow around (x, y) that fades to nothing at `radius`."""
        corner = (round((x - radius) * self.unit), round((y - radius) * self.unit))
        self.image.paste(colour, corner, _glow_mask(round(2 * radius * self.unit)))

    def scatter(self, count: int) -> list[Point]:
        """Return `count` random points on the canvas."""
        return [(self.random.random(), 1.5 * self.random.random()) for _ in range(count)]


@lru_cache(maxsize=64)
def _glow_mask(side: int) -> Image.Image:
    """Return a square mask that falls from 255 in its centre to 0 at the middle of each side. `side` is in pixels."""
    fading = Image.radial_gradient("L").point(lambda level: max(0, 255 - level * 255 // RIM))
    return fading.resize((side, side), Image.Resampling.BILINEAR)


def _star(x: float, y: float, radius: float, points: int, inner: float, turn: float = 0.0) -> list[Point]:
    """Return the outline of a star around (x, y) with `points` points.

    `radius` is the radius of the outer corners. `inner` is the radius of the inner corners, as a share of `radius`.
    `turn` is the angle of the first corner in radians.
    """
    corners = [(radius * (1, inner)[k % 2], turn + math.pi * k / points) for k in range(2 * points)]
    return [(x + r * math.cos(angle), y + r * math.sin(angle)) for r, angle in corners]


@lru_cache(maxsize=1)
def _heart_outline() -> list[Point]:
    """Return the outline of a heart around (0, 0). It reaches about from -1 to 1 in x and y."""
    turns = [math.tau * step / 48 for step in range(48)]
    tops = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    return [(math.sin(t) ** 3, -top / 16) for t, top in zip(turns, tops, strict=True)]


def _heart(x: float, y: float, size: float) -> list[Point]:
    """Return the outline of a heart around (x, y). `size` is half the width of the heart."""
    return [(x + size * across, y + size * down) for across, down in _heart_outline()]


def _branch(canvas: Canvas, x: float, y: float, angle: float, length: float) -> None:
    """Draw a branch from (x, y) with smaller branches at its tip. `angle` is in radians."""
    tip = (x + length * math.cos(angle), y + length * math.sin(angle))
    canvas.line([(x, y), tip], INK, length / 8)
    for side in (-1, 1) if length > 0.045 else ():
        spread = side * canvas.random.uniform(0.2, 0.7)
        _branch(canvas, *tip, angle + spread, length * canvas.random.uniform(0.55, 0.8))


def _horror(canvas: Canvas, random: Random, x: float) -> None:
    canvas.glow(x, 0.5, 0.6, "#9c1616")
    canvas.disc(x, 0.5, random.uniform(0.14, 0.24), random.choice(["#eadfc4", "#d02a20"]))
    canvas.disc(0.5, 1.5, 0.8, INK, squash=0.5)
    for _ in range(random.randint(2, 4)):
        _branch(canvas, random.uniform(0.1, 0.9), 1.2, -math.pi / 2, random.uniform(0.16, 0.28))
    for drip in range(18):
        length = 0.02 + 0.4 * random.random() ** 3
        canvas.box(drip / 18, 0, (drip + 1) / 18, length, "#8c0a10")
        canvas.disc((drip + 0.5) / 18, length, 1 / 36, "#8c0a10", squash=1.6)


def _comedy(canvas: Canvas, random: Random, x: float) -> None:
    r, y, bright = random.uniform(0.24, 0.32), 0.58, ["#ff5964", "#35a7ff", "#38b36b", "#ff8fb1"]
    canvas.polygon(_star(x, y, 2, random.randint(9, 14), 0.1, random.random()), "#ffffff80")
    for spot in canvas.scatter(30):
        canvas.disc(*spot, random.uniform(0.008, 0.03), random.choice(bright))
    canvas.disc(x, y, r, random.choice(bright))
    smile = [(x + r / 2 * math.cos(k / 10), y + 0.2 * r + r / 2 * math.sin(k / 10)) for k in range(32)]
    canvas.polygon(smile, "#ffffff")
    for eye in (x - 0.4 * r, x + 0.4 * r):
        canvas.disc(eye, y - 0.25 * r, 0.27 * r, "#ffffff")
        canvas.disc(eye + random.uniform(-0.1, 0.1) * r, y - 0.2 * r, 0.13 * r, INK)


def _sci_fi(canvas: Canvas, random: Random, x: float) -> None:
    y, r, tilt = 0.5, random.uniform(0.17, 0.27), random.uniform(-0.5, 0.5)
    for star in canvas.scatter(110):
        canvas.disc(*star, random.uniform(0.001, 0.005), "#ffffffc0")
    canvas.glow(x, y, 2.3 * r, "#2aa8ff")
    flat = [(1.9 * r * math.cos(math.tau * k / 60), 0.4 * r * math.sin(math.tau * k / 60)) for k in range(61)]
    ring = [(x + u * math.cos(tilt) - v * math.sin(tilt), y + u * math.sin(tilt) + v * math.cos(tilt)) for u, v in flat]
    canvas.line(ring[30:], "#bfe4ff", 0.02)
    canvas.disc(x, y, r, random.choice(["#d98a4b", "#3fa9b8", "#7d5bd0"]))
    for light in range(1, 9):
        canvas.disc(x - 0.04 * r * light, y - 0.05 * r * light, r * (1 - 0.07 * light), "#ffffff16")
    canvas.line(ring[:31], "#dff1ff", 0.024)
    for step in range(13):
        canvas.line([(0, 1.1 + 0.003 * step**2), (1, 1.1 + 0.003 * step**2)], "#37d6ff90", 0.003)
        canvas.line([(step / 12, 1.1), (4 * step / 12 - 1.5, 1.6)], "#37d6ff90", 0.003)


def _western(canvas: Canvas, random: Random, x: float) -> None:
    canvas.glow(x, 0.62, 0.55, "#fff0b0")
    canvas.disc(x, 0.62, random.uniform(0.18, 0.28), "#fff3c9")
    for base, colour in ((0.88, "#c8642f"), (1.0, "#9a3f22"), (1.14, "#5f2418")):
        for _ in range(2):
            left, wide, top = random.uniform(-0.1, 0.9), random.uniform(0.1, 0.3), base - random.uniform(0.06, 0.26)
            mesa = [(left, top), (left + wide, top), (left + wide * 1.3, base), (left - wide * 0.3, base)]
            canvas.polygon(mesa, colour)
        canvas.box(0, base, 1, 1.6, colour)
    for _ in range(random.randint(1, 3)):
        stem, tall = random.uniform(0.1, 0.9), random.uniform(0.14, 0.26)
        canvas.line([(stem, 1.22), (stem, 1.22 - tall)], "#2b120e", 0.036)
        for arm in (stem - 0.06, stem + 0.06):
            canvas.line([(stem, 1.22 - tall / 3), (arm, 1.22 - tall / 3), (arm, 1.22 - tall * 0.7)], "#2b120e", 0.024)


def _romance(canvas: Canvas, random: Random, x: float) -> None:
    for light in canvas.scatter(24):
        canvas.disc(*light, random.uniform(0.02, 0.09), random.choice(["#ffffff40", "#ffd6e050"]))
    canvas.glow(x, 0.55, 0.55, "#fff1ea")
    for shift, colour in ((-0.1, "#e0245ed8"), (0.1, "#ff7a9cd0")):
        canvas.polygon(_heart(x + shift, 0.55 + shift / 3, random.uniform(0.2, 0.27)), colour)
    for petal in canvas.scatter(14):
        canvas.polygon(_heart(*petal, random.uniform(0.012, 0.03)), "#ffffffb0")


def _action(canvas: Canvas, random: Random, x: float) -> None:
    y = random.uniform(0.5, 0.7)
    for _ in range(16):
        angle, width = random.uniform(0, math.tau), random.uniform(0.02, 0.09)
        shard = [(x + 2 * math.cos(angle + side), y + 2 * math.sin(angle + side)) for side in (-width, width)]
        canvas.polygon([(x, y), *shard], random.choice(["#ff8c1aa0", "#0ec2c2a0", "#ffd24a80", "#06202aa0"]))
    canvas.glow(x, y, 0.5, "#ffb03a")
    for scale, colour in ((0.36, "#ff5a14"), (0.26, "#ffb21f"), (0.16, "#fff6cf")):
        canvas.polygon(_star(x, y, scale, random.randint(9, 13), 0.55, random.random()), colour)
    for tower in range(12):
        canvas.box(tower / 12, random.uniform(0.9, 1.12), (tower + 1) / 12, 1.6, "#06141c")


def _animation(canvas: Canvas, random: Random, x: float) -> None:
    for band, colour in enumerate(("#ff5d5d", "#ffb443", "#fff06a", "#5ed67a", "#58a6ff", "#bfe9ff")):
        canvas.disc(x, 1.0, 0.66 - 0.05 * band, colour)
    for cloud_x, cloud_y in canvas.scatter(5):
        for puff in (-0.06, 0.0, 0.06):
            canvas.disc(cloud_x + puff, 0.5 * cloud_y, 0.06 - abs(puff) / 3, "#fffffff0")
    for hill, colour in ((-0.1, "#7ed957"), (0.9, "#5cc04a"), (0.4, "#46a83f")):
        canvas.disc(hill, 1.5, random.uniform(0.5, 0.65), colour, squash=0.8)
    fur = random.choice(["#a45ee5", "#ff7ac2", "#ff9838"])
    canvas.disc(1 - x, 0.98, 0.17, fur, squash=1.2)
    for eye in (0.94 - x, 1.06 - x):
        canvas.disc(eye, 0.92, 0.05, "#ffffff")
        canvas.disc(eye, 0.93, 0.024, INK)


def _documentary(canvas: Canvas, random: Random, x: float) -> None:
    for step in range(1, 10):
        canvas.line([(step / 10, 0), (step / 10, 1.6)], "#5f6a6a40", 0.003)
        canvas.line([(0, step / 6), (1, step / 6)], "#5f6a6a40", 0.003)
    bays = [(random.randint(2, 5), random.uniform(0, math.tau), random.uniform(0.04, 0.1)) for _ in range(3)]
    turns = [math.tau * step / 60 for step in range(61)]
    shore = [(t, 1 + sum(depth * math.sin(count * t + start) for count, start, depth in bays)) for t in turns]
    for level in range(12):
        far = 0.7 - 0.055 * level
        contour = [(x + far * out * math.cos(t), 0.6 + far * out * math.sin(t)) for t, out in shore]
        canvas.line(contour, "#3f4a4ac0", 0.004)
    route = [(random.uniform(0.1, 0.9), 0.2 + 0.14 * step) for step in range(6)]
    canvas.line(route, "#b3261e", 0.008)
    canvas.disc(*route[-1], 0.03, "#b3261e")


@dataclass(frozen=True)
class Look:
    """The drawing style of a genre: a function that paints its shapes, and the colours of sky and lettering."""

    paint: Callable[[Canvas, Random, float], None]  # the float is the x of the main shape
    skies: tuple[str, ...]  # each sky has colours from top to bottom, separated by spaces; the seed chooses one sky
    lettering: str  # the colour of the text
    scrim: str = INK  # the colour of the gradient behind the text


LOOK_OF = {
    "Action": Look(_action, ("#0a3a4a #0b6b74 #f08a24 #5a1a08", "#041a24 #0a4a5a #e0601a"), "#fff1d0"),
    "Animation": Look(_animation, ("#3fb8ff #a8e6ff #fff4c2", "#7a6bff #ffa8e0 #fff0c8"), "#ffffff"),
    "Comedy": Look(_comedy, ("#ffe14d #ffd000", "#fff6d6 #ffe066", "#ffd84a #ffb74a"), "#1c1c28", "#ffffff"),
    "Documentary": Look(_documentary, ("#d9d8d0 #b9bbb5", "#c6ccce #8f999c"), "#1f2626", "#ffffff"),
    "Horror": Look(_horror, ("#0a0507 #2a0a0c #120406", "#060a0c #1c1414 #3a0808"), "#e6dccb"),
    "Romance": Look(_romance, ("#ffd3dc #ff9eb5 #e8668c", "#ffe3d0 #ffb0a8 #d96a90"), "#ffffff"),
    "Sci-Fi": Look(_sci_fi, ("#03040f #0a1a4a #12508a #04101f", "#050212 #240f55 #14306a #02020a"), "#d8f4ff"),
    "Western": Look(_western, ("#e8843a #f5b95a #ffe0a0 #d8783a", "#b8452a #ee8a3c #ffd28a #b85a2a"), "#fff0cf"),
}
