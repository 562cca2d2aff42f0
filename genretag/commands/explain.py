"""`genretag explain`: show which part of a poster supports its genres."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from genretag.errors import UsageError, one_line, quoted
from genretag.images import BadImage, decode
from genretag.model.bundle import DEFAULT_BUNDLE, Bundle, load_bundle
from genretag.model.evidence import EvidenceNetwork
from genretag.model.thresholds import most_probable
from genretag.storage import Storage, StorageError, resolve

SHOWN = 3  # most probable genres of the poster
SHORT_SIDE = 320  # pixels of each picture
DIMMEST = 0.15  # brightness of the parts that do not support a genre
CAPTION = 26  # pixels
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")


@dataclass(frozen=True)
class Explanation:
    """A genre of a poster: its probability, its evidence map (float32, rows x columns), and where most evidence is."""

    genre: str
    probability: float
    evidence: np.ndarray
    place: str


def explain(
    poster: str, storage: Storage, model: str | None = None, genre: str | None = None
) -> tuple[list[Explanation], Image.Image]:
    """Explain the most probable genres of a poster, or the one genre `genre`. Return them, and a picture of them.

    The picture shows the poster as the network sees it, and once more for each genre, dark where nothing supports the
    genre. `model` is the location of a bundle (None: the default bundle). Raises `UsageError` if the poster cannot be
    read, or if the network has no evidence maps.
    """
    bundle = load_bundle(model or str(DEFAULT_BUNDLE), storage)
    if genre is not None and genre not in bundle.labels:
        raise UsageError(f"the model has no genre {quoted(genre)}: it has {one_line(', '.join(bundle.labels), 300)}")
    rule = bundle.rule
    try:
        data = storage.get(resolve(poster)).data
        pixels = decode(data, rule).pixels
        scale = max(1.0, SHORT_SIDE / min(rule.height, rule.width))
        large = replace(rule, height=round(rule.height * scale), width=round(rule.width * scale))
        picture = Image.fromarray(decode(data, large).pixels)
    except StorageError as error:
        raise UsageError(f"cannot read the poster: {error}") from error
    except BadImage as error:
        raise UsageError(f"{poster} cannot be decoded: {error}") from error
    found = _explained(bundle, pixels, genre)
    return found, _drawn(picture, found)


def _explained(bundle: Bundle, pixels: np.ndarray, genre: str | None) -> list[Explanation]:
    """Return the explanations of a picture, uint8 (height, width, 3), the most probable genre first."""
    evidence = EvidenceNetwork(bundle).evidence(pixels[None])
    probabilities = evidence.probabilities
    chosen = most_probable(SHOWN, probabilities)[0] if genre is None else [bundle.labels.index(genre)]
    maps = evidence.maps[0]
    return [
        Explanation(bundle.labels[n], float(probabilities[0, n]), maps[n], _place(maps[n])) for n in map(int, chosen)
    ]


def _place(evidence: np.ndarray) -> str:
    """Return where the positive evidence is on average, such as `top left`. If there is none, return `nowhere`."""
    positive = np.maximum(evidence, 0)
    if not positive.any():
        return "nowhere"
    rows, columns = positive.sum(axis=1), positive.sum(axis=0)
    down, across = ((mass @ (np.arange(len(mass)) + 0.5)) / mass.sum() / len(mass) for mass in (rows, columns))
    names = ROWS[min(2, int(3 * down))], COLUMNS[min(2, int(3 * across))]
    return "centre" if names == ("middle", "centre") else " ".join(names)


def _drawn(picture: Image.Image, found: list[Explanation]) -> Image.Image:
    """Return the picture next to a copy for each explanation, with captions."""
    width, height = picture.size
    page = Image.new("RGB", (width * (1 + len(found)), height + CAPTION), "white")
    page.paste(picture, (0, CAPTION))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=15)
    pen.text((6, 4), "as the network sees it", "black", font)
    for number, one in enumerate(found, start=1):
        page.paste(_spotlight(picture, one.evidence), (number * width, CAPTION))
        pen.text((number * width + 6, 4), f"{one_line(one.genre, 30)} {one.probability:.2f}", "black", font)
    return page


def _spotlight(picture: Image.Image, evidence: np.ndarray) -> Image.Image:
    """Return the picture, bright where the evidence is highest and dark where there is none."""
    positive = np.maximum(evidence, 0)
    light = positive / positive.max() if positive.any() else positive
    mask = Image.fromarray((255 * (DIMMEST + (1 - DIMMEST) * light)).astype(np.uint8))
    mask = mask.resize(picture.size, Image.Resampling.BICUBIC)
    return Image.composite(picture, Image.new("RGB", picture.size), mask)


def write_picture(picture: Image.Image, file: Path) -> None:
    """Write a picture to a file, in the format of its extension. Raises `UsageError` if that fails."""
    try:
        picture.save(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {file}: {one_line(error)}") from error
