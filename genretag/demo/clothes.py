"""Drawn clothes: a labelled set that has nothing to do with films, each piece with its type and its colour."""

import io
from collections.abc import Iterator
from random import Random

from PIL import Image, ImageDraw

from genretag.demo.posters import DrawnPoster

SIZE = (64, 80)
SUPERSAMPLING = 4  # Pillow's edges are hard
SHADE = 25  # grey levels by which a colour is lighter or darker
COLOURS = {
    "red": (205, 35, 45),
    "blue": (40, 80, 200),
    "green": (35, 145, 65),
    "yellow": (235, 200, 45),
    "black": (30, 30, 35),
}
Outline = tuple[tuple[float, float], ...]  # a polygon in a square from 0 to 1


def _mirrored(*right_half: tuple[float, float]) -> Outline:
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
    """`count` small PNG files, each with one type and one colour; a longer run starts with the same ones."""
    for number in range(count):
        random = Random(f"{seed}/{number}")  # noqa: S311 - drawing, not secrets
        labels = (random.choice(list(OUTLINES)), random.choice(list(COLOURS)))
        buffer = io.BytesIO()
        _draw(random, *labels).save(buffer, "PNG")
        yield DrawnPoster(f"clothes/c{seed * 1_000_000 + number:06d}.png", buffer.getvalue(), labels, None)


def _draw(random: Random, garment: str, colour: str) -> Image.Image:
    """A piece of clothing before a pale wall, not quite straight and not quite in the middle."""
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
