"""What a file looks like that could not be decoded: its kind, whether it is whole, whether Pillow can read its like."""

import io
import re

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

# First match wins. The formats that genretag.images decodes are "corrupt", since decoding them failed.
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
    ("unsupported_format", "ICO", rb"\0\0[\1\2]\0[\1-\xff]\0"),
    ("unsupported_format", "ICNS", rb"icns"),
    ("unsupported_format", "PSD", rb"8BPS\0[\1\2]"),
    ("not_an_image", "HTML", rb"\s*<(!--|!doctype html|html|head|body)"),
    ("not_an_image", "XML", rb"\s*<[?!a-z]"),
    ("not_an_image", "JSON", rb"\s*[\[{]\s*[\[\]{}\"\d]"),
    ("not_an_image", "PDF", rb"%PDF"),
    ("not_an_image", "gzip", rb"\x1f\x8b"),
    ("not_an_image", "zeros only", rb"\0+\Z"),  # of the first KB: an upload that left a file of the right size
    ("not_an_image", "text", rb"[\s!-~]+\Z"),
)
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND", "GIF": b"\0;"}  # what a whole file has in its last KB


def looks_like(encoded: bytes) -> tuple[str, str]:
    """(reason, name) of what a file's first bytes promise; the reason is a key of genretag.images.REASONS."""
    head = encoded[:1024]
    text = head.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that some editors put before UTF-8
    for reason, name, pattern in _SIGNATURES:
        if re.match(pattern, text, re.DOTALL | re.IGNORECASE):
            return reason, name
    return "not_an_image", f"nothing known, first bytes {head[:8].hex(' ')}"


def ends_early(encoded: bytes, name: str) -> bool:
    """Whether the end of the file is missing, for the formats that make it easy to see."""
    if name == "WEBP":
        return int.from_bytes(encoded[4:8], "little") + 8 > len(encoded)
    return name in _ENDS and _ENDS[name] not in encoded[-1024:]


# What Pillow says of valid files that it cannot decode: it has no type for that.
_UNKNOWN = ("unknown pixel mode", "unknown raw mode", "cannot handle", "Unsupported BMP", "not yet supported")


def not_decoded(encoded: bytes, name: str, error: Exception) -> str | None:
    """Say in words what is not decoded here of a file that may well be valid. None: the file is broken.

    `error`: what Pillow raised for it.
    """
    if isinstance(error, UnidentifiedImageError) and name in Image.OPEN:
        try:  # Pillow asks all formats, and drops what each of them says
            Image.OPEN[name][0](io.BytesIO(encoded), "")
        except Exception as cause:  # noqa: BLE001  hostile bytes make Pillow raise nearly any exception
            error = cause
    # A number that names no compression, and a plane that Pillow has no name for.
    is_layout = name == "TIFF" and isinstance(error.__cause__, KeyError | IndexError)
    if is_layout or any(text in str(error) for text in _UNKNOWN):
        return _tiff_samples(encoded) if name == "TIFF" else str(error)
    return None


def _tiff_samples(encoded: bytes) -> str:
    """Describe how a TIFF stores its samples, by the numbers of its tags."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(encoded[: 16 if encoded[2:3] == b"+" else 8])
    with io.BytesIO(encoded) as file:
        file.seek(directory.next)
        directory.load(file)  # Pillow has just read it in the same way
    tags = {"photometric": 262, "bits": 258, "format": 339, "extra": 338, "planar": 284, "compression": 259}
    return "samples of " + ", ".join(f"{word} {directory[tag]}" for word, tag in tags.items() if tag in directory)
