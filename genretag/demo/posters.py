"""Synthetic movie posters, drawn by seed: a labelled set to learn from where no real posters are around.

Each look (a genre) has its own colours and shapes; a poster shows one or two of them, under a made-up title.
"""

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from random import Random

from PIL import ExifTags, Image, ImageChops, ImageDraw, ImageFont

Point = tuple[float, float]
SIZES = ((300, 450), (300, 450), (400, 600), (182, 268))
LARGE_SIZES = ((1000, 1500), (2000, 3000))
SUPERSAMPLED_WIDTH = 600  # up to here a poster is painted at twice its size, because Pillow's edges are hard
GRAIN = 16  # grey levels between the darkest and the brightest grain of film
RIM = 181  # what Pillow's radial gradient has reached in the middle of each side
INK = "#07060a"
VARIANTS = {"jpg": 82, "png": 5, "webp": 5, "grey": 3, "cmyk": 2, "turned": 3}  # how posters are stored, in percent
WORDS = {  # every title has an invented place in it, so that it is nobody's
    "place": "Quillmere Ostravane Thessamoor Marrowick Pellandra Orsinby Tavenfold Vantessar Zebbinor Lumbrook",
    "thing": "Thimbles Accordions Lanterns Umbrellas Postmen Ferries Teapots Compasses Turnips Beekeepers",
    "mood": "Crooked Velvet Copper Paper Hollow Borrowed Sleepless Gilded Reluctant Wandering",
    "who": "Brackenfeld Okonjari Lindqvane Petrosel Amadoura Hoshikane Vandersloe Iyerling",
}
TITLES = ("The {mood}/{thing}/of {place}", "{mood}/{place}", "Return to/{place}", "{place}", "{thing} for/{place}")
TAGLINES = ("Nobody leaves {place} twice.", "Bring your own {thing}.", "This winter, mind the {thing}.")
CREDITS = "a {place} picture   directed by {who}   music by the {mood} {thing}"


@dataclass(frozen=True)
class DrawnPoster:
    """One object of the bucket: `key` like `posters/1987/dp000123.jpg`; `broken` says why it can't be decoded."""

    key: str
    data: bytes
    labels: tuple[str, ...]
    broken: str | None


class _Canvas:
    """An image to paint on, in units of its width: x from 0 to 1, y from 0 to about 1.5."""

    def __init__(self, size: tuple[int, int], colours: str, random: Random) -> None:
        self.random, self.unit = random, size[0]
        stops = Image.new("RGB", (1, len(colours.split())))
        for row, colour in enumerate(colours.split()):
            stops.paste(colour, (0, row, 1, row + 1))
        column = stops.resize((1, size[1]), Image.Resampling.BILINEAR)
        self.image = column.resize(size, Image.Resampling.NEAREST)
        self.opaque, self.blending = ImageDraw.Draw(self.image), ImageDraw.Draw(self.image, "RGBA")

    def pen(self, colour: str) -> ImageDraw.ImageDraw:
        return self.blending if len(colour) == len("#rrggbbaa") else self.opaque  # blending takes twice as long

    def polygon(self, points: Iterable[Point], colour: str) -> None:
        self.pen(colour).polygon([(x * self.unit, y * self.unit) for x, y in points], fill=colour)

    def line(self, points: Iterable[Point], colour: str, width: float) -> None:
        pixels = [(x * self.unit, y * self.unit) for x, y in points]
        self.pen(colour).line(pixels, fill=colour, width=max(1, round(width * self.unit)), joint="curve")

    def disc(self, x: float, y: float, radius: float, colour: str, squash: float = 1.0) -> None:
        box = (x - radius, y - radius * squash, x + radius, y + radius * squash)
        self.pen(colour).ellipse([side * self.unit for side in box], fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        self.pen(colour).rectangle([side * self.unit for side in (left, top, right, bottom)], fill=colour)

    def glow(self, x: float, y: float, radius: float, colour: str) -> None:
        corner = (round((x - radius) * self.unit), round((y - radius) * self.unit))
        self.image.paste(colour, corner, _glow_mask(round(2 * radius * self.unit)))

    def scatter(self, count: int) -> list[Point]:
        return [(self.random.random(), 1.5 * self.random.random()) for _ in range(count)]


@lru_cache(maxsize=64)
def _glow_mask(side: int) -> Image.Image:
    fading = Image.radial_gradient("L").point(lambda level: max(0, 255 - level * 255 // RIM))
    return fading.resize((side, side), Image.Resampling.BILINEAR)


def _star(x: float, y: float, radius: float, points: int, inner: float, turn: float = 0.0) -> list[Point]:
    corners = [(radius * (1, inner)[k % 2], turn + math.pi * k / points) for k in range(2 * points)]
    return [(x + r * math.cos(angle), y + r * math.sin(angle)) for r, angle in corners]


def _heart(x: float, y: float, size: float) -> list[Point]:
    turns = [math.tau * step / 48 for step in range(48)]
    tops = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    return [(x + size * math.sin(t) ** 3, y - size * top / 16) for t, top in zip(turns, tops, strict=True)]


def _branch(canvas: _Canvas, x: float, y: float, angle: float, length: float) -> None:
    tip = (x + length * math.cos(angle), y + length * math.sin(angle))
    canvas.line([(x, y), tip], INK, length / 8)
    for side in (-1, 1) if length > 0.045 else ():
        spread = side * canvas.random.uniform(0.2, 0.7)
        _branch(canvas, *tip, angle + spread, length * canvas.random.uniform(0.55, 0.8))


def _horror(canvas: _Canvas, random: Random, x: float) -> None:
    canvas.glow(x, 0.5, 0.6, "#9c1616")
    canvas.disc(x, 0.5, random.uniform(0.14, 0.24), random.choice(["#eadfc4", "#d02a20"]))
    canvas.disc(0.5, 1.5, 0.8, INK, squash=0.5)
    for _ in range(random.randint(2, 4)):
        _branch(canvas, random.uniform(0.1, 0.9), 1.2, -math.pi / 2, random.uniform(0.16, 0.28))
    for drip in range(18):
        length = 0.02 + 0.4 * random.random() ** 3
        canvas.box(drip / 18, 0, (drip + 1) / 18, length, "#8c0a10")
        canvas.disc((drip + 0.5) / 18, length, 1 / 36, "#8c0a10", squash=1.6)


def _comedy(canvas: _Canvas, random: Random, x: float) -> None:
    r, y, bright = random.uniform(0.24, 0.32), 0.58, ["#ff5964", "#35a7ff", "#38b36b", "#ff8fb1"]
    canvas.polygon(_star(x, y, 2, random.randint(9, 14), 0.1, random.random()), "#ffffff80")
    for spot in canvas.scatter(30):
        canvas.disc(*spot, random.uniform(0.008, 0.03), random.choice(bright))
    canvas.disc(x, y, r, random.choice(bright))
    smile = [
        (x + r / 2 * math.cos(turn), y + 0.2 * r + r / 2 * math.sin(turn)) for turn in (0.1 * k for k in range(32))
    ]
    canvas.polygon(smile, "#ffffff")
    for eye in (x - 0.4 * r, x + 0.4 * r):
        canvas.disc(eye, y - 0.25 * r, 0.27 * r, "#ffffff")
        canvas.disc(eye + random.uniform(-0.1, 0.1) * r, y - 0.2 * r, 0.13 * r, INK)


def _sci_fi(canvas: _Canvas, random: Random, x: float) -> None:
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


def _western(canvas: _Canvas, random: Random, x: float) -> None:
    canvas.glow(x, 0.62, 0.55, "#fff0b0")
    canvas.disc(x, 0.62, random.uniform(0.18, 0.28), "#fff3c9")
    for base, colour in ((0.88, "#c8642f"), (1.0, "#9a3f22"), (1.14, "#5f2418")):
        for _ in range(2):
            left, wide, top = random.uniform(-0.1, 0.9), random.uniform(0.1, 0.3), base - random.uniform(0.06, 0.26)
            canvas.polygon(
                [(left, top), (left + wide, top), (left + wide * 1.3, base), (left - wide * 0.3, base)], colour
            )
        canvas.box(0, base, 1, 1.6, colour)
    for _ in range(random.randint(1, 3)):
        stem, tall = random.uniform(0.1, 0.9), random.uniform(0.14, 0.26)
        canvas.line([(stem, 1.22), (stem, 1.22 - tall)], "#2b120e", 0.036)
        for arm in (stem - 0.06, stem + 0.06):
            canvas.line([(stem, 1.22 - tall / 3), (arm, 1.22 - tall / 3), (arm, 1.22 - tall * 0.7)], "#2b120e", 0.024)


def _romance(canvas: _Canvas, random: Random, x: float) -> None:
    for light in canvas.scatter(24):
        canvas.disc(*light, random.uniform(0.02, 0.09), random.choice(["#ffffff40", "#ffd6e050"]))
    canvas.glow(x, 0.55, 0.55, "#fff1ea")
    for shift, colour in ((-0.1, "#e0245ed8"), (0.1, "#ff7a9cd0")):
        canvas.polygon(_heart(x + shift, 0.55 + shift / 3, random.uniform(0.2, 0.27)), colour)
    for petal in canvas.scatter(14):
        canvas.polygon(_heart(*petal, random.uniform(0.012, 0.03)), "#ffffffb0")


def _action(canvas: _Canvas, random: Random, x: float) -> None:
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


def _animation(canvas: _Canvas, random: Random, x: float) -> None:
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


def _documentary(canvas: _Canvas, random: Random, x: float) -> None:
    for step in range(1, 10):
        canvas.line([(step / 10, 0), (step / 10, 1.6)], "#5f6a6a40", 0.003)
        canvas.line([(0, step / 6), (1, step / 6)], "#5f6a6a40", 0.003)
    waves = [(random.randint(2, 5), random.uniform(0, math.tau), random.uniform(0.04, 0.1)) for _ in range(3)]
    turns = [math.tau * step / 60 for step in range(61)]
    shore = [1 + sum(size * math.sin(count * t + turn) for count, turn, size in waves) for t in turns]
    for level in range(12):
        far = 0.7 - 0.055 * level
        contour = [
            (x + far * out * math.cos(t), 0.6 + far * out * math.sin(t)) for out, t in zip(shore, turns, strict=True)
        ]
        canvas.line(contour, "#3f4a4ac0", 0.004)
    route = [(random.uniform(0.1, 0.9), 0.2 + 0.14 * step) for step in range(6)]
    canvas.line(route, "#b3261e", 0.008)
    canvas.disc(*route[-1], 0.03, "#b3261e")


@dataclass(frozen=True)
class _Look:
    paint: Callable[[_Canvas, Random, float], None]
    skies: tuple[str, ...]  # colours from top to bottom; the seed takes one of them
    lettering: str
    scrim: str = INK  # what the lettering fades into


_LOOKS = {
    "Action": _Look(_action, ("#0a3a4a #0b6b74 #f08a24 #5a1a08", "#041a24 #0a4a5a #e0601a"), "#fff1d0"),
    "Animation": _Look(_animation, ("#3fb8ff #a8e6ff #fff4c2", "#7a6bff #ffa8e0 #fff0c8"), "#ffffff"),
    "Comedy": _Look(_comedy, ("#ffe14d #ffd000", "#fff6d6 #ffe066", "#ffd84a #ffb74a"), "#1c1c28", "#ffffff"),
    "Documentary": _Look(_documentary, ("#d9d8d0 #b9bbb5", "#c6ccce #8f999c"), "#1f2626", "#ffffff"),
    "Horror": _Look(_horror, ("#0a0507 #2a0a0c #120406", "#060a0c #1c1414 #3a0808"), "#e6dccb"),
    "Romance": _Look(_romance, ("#ffd3dc #ff9eb5 #e8668c", "#ffe3d0 #ffb0a8 #d96a90"), "#ffffff"),
    "Sci-Fi": _Look(_sci_fi, ("#03040f #0a1a4a #12508a #04101f", "#050212 #240f55 #14306a #02020a"), "#d8f4ff"),
    "Western": _Look(_western, ("#e8843a #f5b95a #ffe0a0 #d8783a", "#b8452a #ee8a3c #ffd28a #b85a2a"), "#fff0cf"),
}
LOOKS: tuple[str, ...] = tuple(_LOOKS)


def draw_poster(
    seed: int,
    looks: Sequence[str] = (),
    width: int = 300,
    height: int = 450,
    image_format: str = "JPEG",
    quality: int = 85,
) -> bytes:
    """The bytes of one poster (`JPEG`, `PNG` or `WEBP`) that shows `looks`, the first one most.

    Without `looks` the seed chooses one or two. The same arguments give the same bytes, as long as Pillow stays
    the same. Raises `ValueError` for a look that is not in `LOOKS`.
    """
    random = Random(str(seed))  # noqa: S311 - drawing, not secrets
    return _encode(_draw(random, looks or _choose_looks(random), (width, height)), image_format, quality)


def draw_posters(
    count: int, seed: int = 0, broken_share: float = 0.0, large_share: float = 0.0
) -> Iterator[DrawnPoster]:
    """`count` posters of several sizes and formats; a longer run with the same seed starts with the same ones.

    `broken_share` of them cannot be decoded, `large_share` of them have 1.5 or 6 megapixels. Their ids differ
    between seeds (up to a million posters each).
    """
    for number in range(count):
        random = Random(f"{seed}/{number}")  # noqa: S311 - drawing, not secrets
        labels = _choose_looks(random)
        broken = random.choice(list(BROKEN)) if random.random() < broken_share else None
        size = random.choice(LARGE_SIZES if random.random() < large_share else SIZES)
        variant = "jpg" if broken else random.choices(list(VARIANTS), list(VARIANTS.values()))[0]
        data = _encode_variant(_draw(random, labels, size), variant)
        suffix = variant if variant in ("png", "webp") else "jpg"
        key = f"posters/{random.randint(1950, 2025)}/dp{seed * 1_000_000 + number:06d}.{suffix}"
        yield DrawnPoster(key, BROKEN[broken](data, random) if broken else data, labels, broken)


def labels_csv(posters: Iterable[DrawnPoster]) -> str:
    """The truth about `posters` as CSV: `id` (the stem of the key) and `labels`, joined by `|`."""
    rows = (f"{PurePosixPath(poster.key).stem},{'|'.join(poster.labels)}\n" for poster in posters)
    return "id,labels\n" + "".join(rows)


def _choose_looks(random: Random) -> tuple[str, ...]:
    return tuple(random.sample(LOOKS, random.choice((1, 1, 2))))


def _draw(random: Random, looks: Sequence[str], size: tuple[int, int]) -> Image.Image:
    """A whole poster, RGB: the looks blended, then lettering, then a darker rim and the grain of film."""
    if unknown := set(looks) - set(LOOKS):
        raise ValueError(f"no such look: {', '.join(sorted(unknown))}; there are {', '.join(LOOKS)}")
    image, *others = [_paint(random, _LOOKS[look], size) for look in looks]
    for other in others:
        slope = Image.linear_gradient("L").rotate(random.uniform(-70, 70), Image.Resampling.BILINEAR)
        edge = slope.crop((48, 48, 208, 208)).point(lambda level: max(0, min(255, 9 * (level - 120))))
        image.paste(other, mask=edge.resize(size, Image.Resampling.BILINEAR))
    _letter(image, random, _LOOKS[looks[0]])
    grain = Image.frombytes("L", size, random.randbytes(size[0] * size[1])).point(lambda level: level * GRAIN // 255)
    image = ImageChops.multiply(image, _rim(size))
    return ImageChops.add(image, Image.merge("RGB", [grain] * 3), offset=-GRAIN // 2)


@lru_cache(maxsize=8)
def _rim(size: tuple[int, int]) -> Image.Image:
    rim = Image.radial_gradient("L").point(lambda level: 255 - max(0, level - 110) // 2)
    return Image.merge("RGB", [rim.resize(size)] * 3)


def _paint(random: Random, look: _Look, size: tuple[int, int]) -> Image.Image:
    scale = 2 if size[0] <= SUPERSAMPLED_WIDTH else 1
    canvas = _Canvas((size[0] * scale, size[1] * scale), random.choice(look.skies), random)
    look.paint(canvas, random, random.uniform(0.35, 0.65))
    return canvas.image.reduce(scale)


def _letter(image: Image.Image, random: Random, look: _Look) -> None:
    """Tagline, title and credits in the lower half, over a scrim that makes them readable."""
    (width, height), draw, colour = image.size, ImageDraw.Draw(image), look.lettering
    words = {kind: random.choice(choices.split()) for kind, choices in WORDS.items()}
    image.paste(look.scrim, (0, height // 2), _scrim((width, height - height // 2)))
    y = height - 0.15 * width
    for line in reversed(random.choice(TITLES).format(**words).upper().split("/")):
        size = min(0.16 * width, 86 * width / _font(100).getlength(line))
        draw.text((width / 2 + size / 20, y + size / 20), line, look.scrim, _font(size), "ms")
        draw.text((width / 2, y), line, colour, _font(size), "ms", stroke_width=size / 40)
        y -= 1.02 * size
    draw.text((width / 2, y), random.choice(TAGLINES).format(**words), colour, _font(0.045 * width), "ms")
    names, font = CREDITS.format(**words), _font(0.045 * width)
    strip = Image.new("L", (round(font.getlength(names)), round(0.06 * width)))
    ImageDraw.Draw(strip).text((0, 0.045 * width), names, 200, font, "ls")
    strip = strip.resize((round(0.86 * width), strip.height))  # credits are condensed, by contract
    image.paste(colour, (round(0.07 * width), height - round(0.11 * width)), strip)


@lru_cache(maxsize=8)
def _scrim(size: tuple[int, int]) -> Image.Image:
    return Image.linear_gradient("L").resize(size, Image.Resampling.BILINEAR)


@lru_cache(maxsize=256)
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(4, round(size)))


def _encode(image: Image.Image, image_format: str = "JPEG", quality: int = 85, **options: object) -> bytes:
    fast = {"PNG": {"compress_level": 1}, "WEBP": {"quality": quality, "method": 0}, "JPEG": {"quality": quality}}
    buffer = io.BytesIO()
    image.save(buffer, image_format, **fast[image_format], **options)
    return buffer.getvalue()


def _encode_variant(image: Image.Image, variant: str) -> bytes:
    if variant in ("png", "webp"):
        return _encode(image, variant.upper())
    if variant == "turned":  # as a camera held upright stores it: the viewer turns it by the EXIF tag
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        return _encode(image.transpose(Image.Transpose.ROTATE_90), exif=exif)
    modes = {"grey": "L", "cmyk": "CMYK"}
    return _encode(image.convert(modes.get(variant, "RGB")))


def _huge_png() -> bytes:
    """A PNG of 33 bytes whose header claims 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


BROKEN: dict[str, Callable[[bytes, Random], bytes]] = {
    "truncated": lambda data, random: data[: int(len(data) * random.uniform(0.1, 0.6))],
    "empty": lambda *_: b"",
    "HTML error page": lambda *_: b"<!DOCTYPE html><title>404</title><h1>No such poster</h1>",
    "random bytes": lambda data, random: random.randbytes(len(data)),
    "JSON text": lambda *_: b'{"error": "NoSuchKey", "status": 404}',
    "claims 60000 x 60000 pixels": lambda *_: _huge_png(),
}
