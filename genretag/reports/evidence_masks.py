"""Evidence masks: small pictures that lie over a poster and darken all but the part that supports a genre.

The gallery and the model card show them. The part comes from the evidence map of the genre (`genretag.model.evidence`),
so only networks with such maps have masks.
"""

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from genretag.images import ImageRule
from genretag.images.decode_cost import DecodeMemory
from genretag.images.decoding import DecodedImage, ImageLimits, decode
from genretag.model.bundle import Bundle
from genretag.model.evidence import EvidenceNetwork
from genretag.reports.tagged_posters import Picture, drawn
from genretag.scoring.reader import DECODE_BYTES
from genretag.storage import Storage

DARKEST = 0.85  # opacity of the mask where nothing supports the genre
SHORTER_BY = 10  # a thumbnail has this many times the width and height of its mask
AT_A_TIME = 256  # decoded posters in memory


def evidence_masks(
    pictures: Sequence[Picture],
    labels: Sequence[Sequence[int]],
    bundle: Bundle,
    storage: Storage,
    progress: Callable[[int], None] | None = None,
) -> list[list[str]]:
    """Return the masks of each picture: for each of its labels a PNG in base64, or no mask if it cannot be shown.

    A mask lies over the picture's thumbnail. `labels` has the indices of the labels of each picture. The reasons why a
    picture cannot be shown, and `progress`, are those of `thumbnails`. Raises `UsageError` if the bundle's network has
    no evidence maps.
    """
    network, rule = EvidenceNetwork(bundle), bundle.rule
    memory, limits = DecodeMemory(DECODE_BYTES), ImageLimits()

    def decoded(data: bytes, _picture: Picture) -> DecodedImage:
        return decode(data, rule, limits, memory)

    masks: list[list[str]] = []
    for start in range(0, len(pictures), AT_A_TIME):
        part = pictures[start : start + AT_A_TIME]
        for picture, image in zip(part, drawn(part, storage, decoded), strict=True):
            wanted = labels[len(masks)]
            if image is None or not wanted:
                masks.append([])
                continue
            maps = network.evidence(image.pixels[np.newaxis]).maps[0]
            size = image.width, image.height
            masks.append([_png(_as_seen(maps[label], rule, picture.rule, size)) for label in wanted])
            if progress:
                progress(len(masks))
    return masks


def _as_seen(evidence: np.ndarray, network: ImageRule, shown: ImageRule, size: tuple[int, int]) -> np.ndarray:
    """Return the part of an evidence map that lies under a thumbnail, float32 (rows, columns), without negative values.

    The network sees a poster of `size` (width, height) by one rule, and the thumbnail shows it by another: with bars,
    cropped or whole. Where the network sees nothing, there is no evidence.
    """
    starts, ends = [], []  # of the thumbnail, in columns and rows of the map
    for (low, high), (first, last), cells in zip(
        _place_of(size, network), _place_of(size, shown), evidence.shape[::-1], strict=True
    ):
        scale = (high - low) / (last - first)
        starts.append(cells * (low - first * scale))
        ends.append(cells * (low + (1 - first) * scale))
    small = max(1, shown.width // SHORTER_BY), max(1, shown.height // SHORTER_BY)
    positive = Image.fromarray(np.maximum(evidence, 0))
    box = (*starts, *ends)
    return np.asarray(positive.transform(small, Image.Transform.EXTENT, box, Image.Resampling.BILINEAR, fillcolor=0))


def _place_of(size: tuple[int, int], rule: ImageRule) -> list[tuple[float, float]]:
    """Return where the edges of a whole poster are in a picture by `rule`, as shares of the picture's width and height.

    The first pair is left and right, the second top and bottom. A picture that is cropped has the edges outside.
    """
    whole = (rule.width, rule.height)
    pairs = zip(rule.scaled_size(size), whole, strict=True)
    return [((1 - scaled / side) / 2, (1 + scaled / side) / 2) for scaled, side in pairs]


def _png(evidence: np.ndarray) -> str:
    """Return a black picture, transparent where the evidence is highest, as a PNG in base64."""
    light = evidence / evidence.max() if evidence.any() else evidence
    opacity = Image.fromarray((255 * DARKEST * (1 - light)).round().astype(np.uint8))
    buffer = io.BytesIO()
    Image.merge("LA", (Image.new("L", opacity.size), opacity)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
