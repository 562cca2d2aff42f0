"""Image bytes -> uint8 (height, width, 3) RGB: the only decoder, for training, scoring and predict.

One filter, one treatment of colour and one orientation everywhere, so that a model sees in production
what it was trained on. ICC profiles are not applied. Of an animation the first frame counts, of a
multi-page TIFF the first page.
"""

import io
import re
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from genretag.errors import one_line

# What posters come as, and nothing that starts a program (EPS runs Ghostscript) or whose header does not
# say how large the pixels inside are (ICO, ICNS). JPEG includes MPO, the picture pairs of some cameras.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

RESIZES = ("squash",)  # squash: the whole picture, its aspect ratio given up

REASONS = {
    "empty": "the object has no bytes",
    "too_many_bytes": "more bytes than ImageLimits.max_bytes",
    "not_an_image": "something else, often a web page or an error message under an image's name",
    "unsupported_format": "an image, in a format that is not decoded here",
    "too_many_pixels": "the header promises more pixels than ImageLimits.max_pixels",
    "truncated": "the end is missing, as after an upload that broke off (AVIF and TIFF: may say corrupt)",
    "corrupt": "an image of a known format that cannot be decoded",
    "out_of_memory": "this machine had no memory left: the picture itself may be sound",
}

# Pillow's filters widen as the picture shrinks, so they antialias. Bicubic costs .2 to .4 ms more per poster.
_FILTER = Image.Resampling.BILINEAR

# EXIF orientation -> what makes the stored picture upright (5 to 8 swap the axes). Absent: nothing to do.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's modes of more than 8 bits

# What a file that Pillow failed on looks like; first match wins. The formats of FORMATS are "corrupt".
_SIGNATURES = (
    ("corrupt", "JPEG", rb"\xff\xd8"),
    ("corrupt", "PNG", rb"\x89PNG"),
    ("corrupt", "WEBP", rb"RIFF....WEBP"),
    ("corrupt", "GIF", rb"GIF8"),
    ("corrupt", "BMP", rb"BM.{4}\0{4}"),
    ("corrupt", "TIFF", rb"II[*+]\0|MM\0[*+]"),
    ("corrupt", "AVIF", rb".{4}ftypavi[fs]"),
    ("unsupported_format", "HEIC", rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)"),
    ("unsupported_format", "JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL "),
    ("unsupported_format", "JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    ("unsupported_format", "SVG", rb"\s*<(svg|!doctype svg|\?xml.*<svg)"),
    ("unsupported_format", "EPS", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("unsupported_format", "ICO", rb"\0\0[\1\2]\0"),
    ("not_an_image", "HTML", rb"\s*<(!--|!doctype html|html|head|body)"),
    ("not_an_image", "XML", rb"\s*<[?!a-z]"),
    ("not_an_image", "JSON", rb"\s*[\[{]\s*[\[\]{}\"\d]"),
    ("not_an_image", "PDF", rb"%PDF"),
    ("not_an_image", "text", rb"[\s!-~]+\Z"),
)

_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND", "GIF": b"\0;"}  # what a whole file has in its last KB

# Process-wide, once, for neither has a thread-safe form per call. Pillow warns of large pictures before it
# refuses them; ImageLimits.max_pixels stands in for that. Its warnings about odd metadata would fill the logs
# of a night. And all formats are registered now, not by whichever thread decodes first.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
Image.init()


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


@dataclass(frozen=True)
class ImageLimits:
    """What one picture may cost, checked before memory is spent.

    Pixels are counted as stored. Peak memory per pixel and thread, measured: 4 bytes, with transparency 8,
    AVIF 9, WebP 17; a JPEG that is reduced while it is decoded .1, a progressive one 3.
    """

    max_bytes: int = 64 * 2**20
    max_pixels: int = 100_000_000  # a one-sheet (27 x 40 inches) at 300 dpi has 97 million


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A picture as the model sees it, and the size it had."""

    pixels: np.ndarray  # uint8 (height, width, 3) of the rule, RGB, C-contiguous, read-only
    width: int  # the picture's own, in pixels, as displayed (after EXIF orientation)
    height: int


class BadImage(ValueError):
    """Bytes that give no picture: `reason` is a key of REASONS, `message` one clean line for people."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        self.message = one_line(message, 200)  # it may quote hostile bytes
        super().__init__(reason, self.message)  # both in args, or the error would not survive pickling

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


_DEFAULT_LIMITS = ImageLimits()


def decode(data: bytes | memoryview, rule: ImageRule, limits: ImageLimits = _DEFAULT_LIMITS) -> DecodedImage:
    """Decode an image file's bytes by `rule`; safe to call from many threads at once.

    Transparency shows white. 16-bit grey is scaled to 8 bits; 32-bit and floating-point grey has no agreed
    white, so its own darkest and brightest values become 0 and 255.

    Raises BadImage, and nothing else, whatever the bytes are.
    """
    size_bytes = memoryview(data).nbytes
    if size_bytes == 0:
        raise BadImage("empty", "the object has 0 bytes")
    if size_bytes > limits.max_bytes:
        raise BadImage("too_many_bytes", f"{size_bytes:,} bytes, limit {limits.max_bytes:,}")
    encoded = bytes(data)  # no copy if it is bytes already
    try:
        return _decode(encoded, rule, limits)
    except BadImage:
        raise
    except Exception as error:  # noqa: BLE001  hostile bytes make Pillow raise nearly any exception
        raise _explain(encoded, error) from None


def _decode(encoded: bytes, rule: ImageRule, limits: ImageLimits) -> DecodedImage:
    image = Image.open(io.BytesIO(encoded), formats=FORMATS)  # parses the header only
    width, height = image.size
    if width * height > limits.max_pixels:
        raise BadImage("too_many_pixels", f"{width:,} x {height:,} pixels, limit {limits.max_pixels:,}")
    if isinstance(image, JpegImageFile):
        # Reduced by 2, 4 or 8 inside the decoder, never below the target. None: keep the colour mode.
        image.draft(None, _stored_size(rule, _orientation(image)))
    image.load()
    orientation = _orientation(image)  # a PNG may tell only after its pixels; a TIFF has turned itself by now
    rgb = _to_rgb(_averageable(image).resize(_stored_size(rule, orientation), _FILTER))
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    if orientation >= 5:
        width, height = height, width
    return DecodedImage(np.asarray(rgb), width, height)


def _stored_size(rule: ImageRule, orientation: int) -> tuple[int, int]:
    """The rule's size as (width, height), before the picture is turned upright."""
    return (rule.height, rule.width) if orientation >= 5 else (rule.width, rule.height)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; like in a browser 1 if there is none or it cannot be read."""
    if not image.info.keys() & {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}:
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, EOFError, struct.error):
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _averageable(image: Image.Image) -> Image.Image:
    """The same picture in a mode whose neighbouring values may be averaged: no palette, no colour key."""
    if image.mode in _DEEP_GREY:
        return image
    if image.has_transparency_data:
        # resize() weighs the colours of RGBA by their alpha, so that hidden colours do not bleed.
        return image if image.mode == "RGBA" else image.convert("RGBA")
    return image.convert("RGB") if image.mode in ("1", "P") else image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any averageable mode to RGB: CMYK, LAB and YCbCr by Pillow's own formulas, RGBA over white."""
    if image.mode in _DEEP_GREY:
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    elif image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(grey: np.ndarray) -> np.ndarray:
    """Grey of 16 or 32 bits or float32, any shape, to uint8 of the same shape."""
    if grey.dtype.itemsize == 2:
        scaled = grey / 257
    else:
        finite = np.nan_to_num(grey.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        scaled = (finite - finite.min()) * (255 / (np.ptp(finite) or 1))
    return scaled.round().astype(np.uint8)


def _explain(encoded: bytes, error: Exception) -> BadImage:
    """The reason that fits best for bytes that Pillow failed on with `error`."""
    if isinstance(error, MemoryError):
        return BadImage("out_of_memory", f"no memory for the pixels in {len(encoded):,} bytes of image")
    reason, name = _looks_like(encoded[:1024])
    if reason != "corrupt":
        return BadImage(reason, f"looks like {name}")
    if isinstance(error, EOFError) or "truncated" in str(error).lower() or _ends_early(encoded, name):
        reason = "truncated"
    if isinstance(error, UnidentifiedImageError):
        return BadImage(reason, f"{name}: the header cannot be read")  # its own text is an address in memory
    return BadImage(reason, f"{name}: {type(error).__name__}: {error}")


def _looks_like(head: bytes) -> tuple[str, str]:
    """(reason, name) of what a file's first bytes promise."""
    text = head.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that some editors put before UTF-8
    for reason, name, pattern in _SIGNATURES:
        if re.match(pattern, text, re.DOTALL | re.IGNORECASE):
            return reason, name
    return "not_an_image", f"nothing known, first bytes {head[:8].hex(' ')}"


def _ends_early(encoded: bytes, name: str) -> bool:
    """Whether the end of the file is missing, for the formats that make it easy to see."""
    if name == "WEBP":
        return int.from_bytes(encoded[4:8], "little") + 8 > len(encoded)
    return name in _ENDS and _ENDS[name] not in encoded[-1024:]
