"""Draw synthetic movie posters from a seed: a labelled data set for training if there are no real posters.

A look is the way in which posters of one genre are drawn, with typical colours and shapes. A poster shows one or two
looks and a made-up title. The labels of a poster are the genres of its looks.

`draw_clothes` draws a second labelled data set: pieces of clothing, labelled by type and colour.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from random import Random

from PIL import ExifTags, Image, ImageChops, ImageDraw, ImageFont

from genretag.demo.looks import LOOK_OF, Canvas, Look

SIZES = ((300, 450), (300, 450), (400, 600), (182, 268))
LARGE_SIZES = ((1000, 1500), (2000, 3000))
SUPERSAMPLED_WIDTH = 600  # up to this width, paint a poster at twice its size, because Pillow does not smooth edges
GRAIN = 16  # grey levels between the darkest and the brightest pixel of the film grain
VARIANTS = {"jpg": 82, "png": 5, "webp": 5, "grey": 3, "cmyk": 2, "turned": 3}  # percent of posters by kind of file
WORDS = {  # each title has an invented place name, so that it is not the title of a real film
    "place": "Quillmere Ostravane Thessamoor Marrowick Pellandra Orsinby Tavenfold Vantessar Zebbinor Lumbrook",
    "thing": "Thimbles Accordions Lanterns Umbrellas Postmen Ferries Teapots Compasses Turnips Beekeepers",
    "mood": "Crooked Velvet Copper Paper Hollow Borrowed Sleepless Gilded Reluctant Wandering",
    "who": "Brackenfeld Okonjari Lindqvane Petrosel Amadoura Hoshikane Vandersloe Iyerling",
}
TITLES = ("The {mood}/{thing}/of {place}", "{mood}/{place}", "Return to/{place}", "{place}", "{thing} for/{place}")
TAGLINES = ("Nobody leaves {place} twice.", "Bring your own {thing}.", "This winter, mind the {thing}.")
CREDITS = "a {place} picture   directed by {who}   music by the {mood} {thing}"


LOOKS: tuple[str, ...] = tuple(LOOK_OF)


@dataclass(frozen=True)
class DrawnPoster:
    """One drawn image as an object of a bucket: key, bytes and true labels.

    A key looks like `posters/1987/dp000123.jpg`. `broken` is a kind of damage (a key of `BROKEN`), or None if the image
    can be decoded.
    """

    key: str
    data: bytes
    labels: tuple[str, ...]
    broken: str | None


def draw_poster(
    seed: int,
    looks: Sequence[str] = (),
    width: int = 300,
    height: int = 450,
    image_format: str = "JPEG",
    quality: int = 85,
) -> bytes:
    """Return the file of one poster as bytes. It is drawn in the styles of the genres `looks` (names in `LOOKS`).

    The lettering has the style of the first look. If `looks` is empty, the seed chooses one or two looks. `width` and
    `height` are in pixels. `image_format` is `JPEG`, `PNG` or `WEBP`; `quality` (1 to 100) does not affect `PNG`. The
    same arguments give the same bytes with the same version of Pillow. Raises `ValueError` if a look is not in `LOOKS`.
    """
    random = Random(str(seed))  # noqa: S311 - drawing, not secrets
    return _encode(_draw(random, looks or _choose_looks(random), (width, height)), image_format, quality)


def draw_posters(
    count: int, seed: int = 0, broken_share: float = 0.0, large_share: float = 0.0
) -> Iterator[DrawnPoster]:
    """Yield `count` posters of several sizes and formats, with their keys and labels.

    A higher `count` with the same seed starts with the same posters. `broken_share` and `large_share` are shares from 0
    to 1: about `broken_share` of the posters cannot be decoded, and about `large_share` have 1.5 or 6 megapixels. Ids
    differ between seeds if no seed draws more than a million posters.
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
    """Return the true labels of `posters` as the text of a CSV with the columns `id` and `labels`.

    The id is the stem of the key. Labels are joined by `|`.
    """
    rows = (f"{PurePosixPath(poster.key).stem},{'|'.join(poster.labels)}\n" for poster in posters)
    return "id,labels\n" + "".join(rows)


def _choose_looks(random: Random) -> tuple[str, ...]:
    """Return one or two random genres from `LOOKS`, to draw a poster in their styles. One is twice as likely as two."""
    return tuple(random.sample(LOOKS, random.choice((1, 1, 2))))


def _draw(random: Random, looks: Sequence[str], size: tuple[int, int]) -> Image.Image:
    """Return a complete poster in RGB. `size` is (width, height) in pixels.

    Blend the drawing styles of the genres `looks`, write the lettering over them, darken the rim, and add film grain.
    Raises `ValueError` if a look is not in `LOOKS`.
    """
    if unknown := set(looks) - set(LOOKS):
        raise ValueError(f"no such look: {', '.join(sorted(unknown))}; there are {', '.join(LOOKS)}")
    image, *others = [_paint(random, LOOK_OF[look], size) for look in looks]
    for other in others:
        slope = Image.linear_gradient("L").rotate(random.uniform(-70, 70), Image.Resampling.BILINEAR)
        edge = slope.crop((48, 48, 208, 208)).point(lambda level: max(0, min(255, 9 * (level - 120))))
        image.paste(other, mask=edge.resize(size, Image.Resampling.BILINEAR))
    _letter(image, random, LOOK_OF[looks[0]])
    grain = Image.frombytes("L", size, random.randbytes(size[0] * size[1])).point(lambda level: level * GRAIN // 255)
    image = ImageChops.multiply(image, _rim(size))
    return ImageChops.add(image, Image.merge("RGB", [grain] * 3), offset=-GRAIN // 2)


@lru_cache(maxsize=8)
def _rim(size: tuple[int, int]) -> Image.Image:
    """Return an image of this size that is bright with a darker rim. A poster is multiplied by it to darken its rim."""
    rim = Image.radial_gradient("L").point(lambda level: 255 - max(0, level - 110) // 2)
    return Image.merge("RGB", [rim.resize(size)] * 3)


def _paint(random: Random, look: Look, size: tuple[int, int]) -> Image.Image:
    """Return an image in the style `look`. Small images are painted at twice their size, which smooths the edges."""
    scale = 2 if size[0] <= SUPERSAMPLED_WIDTH else 1
    canvas = Canvas((size[0] * scale, size[1] * scale), random.choice(look.skies), random)
    look.paint(canvas, random, random.uniform(0.35, 0.65))
    return canvas.image.reduce(scale)


def _letter(image: Image.Image, random: Random, look: Look) -> None:
    """Write tagline, title and credits into the lower half of `image`, on a gradient that makes the text readable."""
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
    strip = strip.resize((round(0.86 * width), strip.height))  # narrow letters, as in the credits of real posters
    image.paste(colour, (round(0.07 * width), height - round(0.11 * width)), strip)


@lru_cache(maxsize=8)
def _scrim(size: tuple[int, int]) -> Image.Image:
    """Return a mask that increases from 0 at the top to 255 at the bottom."""
    return Image.linear_gradient("L").resize(size, Image.Resampling.BILINEAR)


@lru_cache(maxsize=256)
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's default font at this size in pixels. A size below 4 becomes 4."""
    return ImageFont.load_default(max(4, round(size)))


def _encode(image: Image.Image, image_format: str = "JPEG", quality: int = 85, **options: object) -> bytes:
    """Return the image as the bytes of a JPEG, PNG or WEBP file. `quality` does not affect PNG."""
    fast = {"PNG": {"compress_level": 1}, "WEBP": {"quality": quality, "method": 0}, "JPEG": {"quality": quality}}
    buffer = io.BytesIO()
    image.save(buffer, image_format, **fast[image_format], **options)
    return buffer.getvalue()


def _encode_variant(image: Image.Image, variant: str) -> bytes:
    """Return the image as the bytes of a file of the kind `variant`, a key of `VARIANTS` such as `grey`."""
    if variant in ("png", "webp"):
        return _encode(image, variant.upper())
    if variant == "turned":  # as cameras store pictures in portrait format: viewers turn them by the EXIF orientation
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        return _encode(image.transpose(Image.Transpose.ROTATE_90), exif=exif)
    modes = {"grey": "L", "cmyk": "CMYK"}
    return _encode(image.convert(modes.get(variant, "RGB")))


def _huge_png() -> bytes:
    """Return a PNG of a few bytes whose header claims 60,000 x 60,000 pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b""))
    framed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


# Kind of damage -> function that returns the broken file, from the bytes of the good file and a random generator.
BROKEN: dict[str, Callable[[bytes, Random], bytes]] = {
    "truncated": lambda data, random: data[: int(len(data) * random.uniform(0.1, 0.6))],
    "empty": lambda *_: b"",
    "HTML error page": lambda *_: b"<!DOCTYPE html><title>404</title><h1>No such poster</h1>",
    "random bytes": lambda data, random: random.randbytes(len(data)),
    "JSON text": lambda *_: b'{"error": "NoSuchKey", "status": 404}',
    "claims 60000 x 60000 pixels": lambda *_: _huge_png(),
}


SIZE = (64, 80)  # (width, height) of a drawn piece of clothing, in pixels
SUPERSAMPLING = 4  # paint at 4 times the size, because Pillow does not smooth edges
SHADE = 25  # levels (of 255) by which a colour may be lighter or darker
COLOURS = {
    "red": (205, 35, 45),
    "blue": (40, 80, 200),
    "green": (35, 145, 65),
    "yellow": (235, 200, 45),
    "black": (30, 30, 35),
}
Outline = tuple[tuple[float, float], ...]  # a polygon in a square from 0 to 1


def _mirrored(*right_half: tuple[float, float]) -> Outline:
    """Return the outline that consists of the points `right_half` and their mirror images on the left."""
    return (*right_half, *((1 - x, y) for x, y in reversed(right_half)))


_SHOE = ((0.0, 0.45), (0.13, 0.45), (0.17, 0.6), (0.36, 0.67), (0.36, 0.76), (0.0, 0.76))
OUTLINES: dict[str, tuple[Outline, ...]] = {
    "shirt": (_mirrored((0.7, 0.15), (0.95, 0.4), (0.82, 0.52), (0.7, 0.4), (0.7, 0.88)),),
    "trousers": (_mirrored((0.7, 0.05), (0.78, 0.97), (0.57, 0.97), (0.5, 0.38)),),
    "dress": (_mirrored((0.62, 0.05), (0.6, 0.4), (0.88, 0.97)),),
    "hat": (_mirrored((0.66, 0.28), (0.7, 0.58), (0.95, 0.64), (0.95, 0.72)),),
    "shoes": tuple(tuple((x + shift, y) for x, y in _SHOE) for shift in (0.08, 0.54)),
}
LABELS: tuple[str, ...] = (*OUTLINES, *COLOURS)


def draw_clothes(count: int, seed: int = 0) -> Iterator[DrawnPoster]:
    """Yield `count` small PNG files of drawn clothes. Each has two labels: the type of garment and the colour.

    A higher `count` with the same seed starts with the same files. Ids differ between seeds if no seed draws more than
    a million files.
    """
    for number in range(count):
        random = Random(f"{seed}/{number}")  # noqa: S311 - drawing, not secrets
        labels = (random.choice(list(OUTLINES)), random.choice(list(COLOURS)))
        buffer = io.BytesIO()
        _draw_garment(random, *labels).save(buffer, "PNG")
        yield DrawnPoster(f"clothes/c{seed * 1_000_000 + number:06d}.png", buffer.getvalue(), labels, None)


def _draw_garment(random: Random, garment: str, colour: str) -> Image.Image:
    """Return an image of a piece of clothing in front of a pale wall, a little turned and off the middle."""
    wall = tuple(random.randint(215, 245) for _ in range(3))
    shade = random.randint(-SHADE, SHADE)
    cloth = tuple(max(0, level + shade) for level in COLOURS[colour])
    width, height = (side * SUPERSAMPLING for side in SIZE)
    scale = width * random.uniform(0.7, 0.95)
    left, top = random.uniform(0, width - scale), random.uniform(0, height - scale)
    mask = Image.new("L", (width, height))
    for outline in OUTLINES[garment]:
        ImageDraw.Draw(mask).polygon([(left + x * scale, top + y * scale) for x, y in outline], fill=255)
    mask = mask.rotate(random.uniform(-12, 12), Image.Resampling.BILINEAR)
    picture = Image.new("RGB", (width, height), wall)
    picture.paste(cloth, mask=mask)
    return picture.reduce(SUPERSAMPLING)
