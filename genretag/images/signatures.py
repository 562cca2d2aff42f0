"""What a file looks like that could not be decoded: its kind, whether it is whole, whether Pillow can read its like."""

import io
import re

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

# Files that nobody takes for a poster that was fetched badly, as a web page or a text may be.
_NO_PICTURES = (
    ("Matroska video", rb"\x1aE\xdf\xa3"),
    ("MP4 or QuickTime video", rb".{4}(ftyp|moov|mdat|wide)"),
    ("AVI video", rb"RIFF....AVI "),
    ("MPEG video", rb"\x00\x00\x01[\xb3\xba]|G.{187}G.{187}G"),
    ("Windows Media", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    ("Flash video", rb"FLV\x01"),
    ("sound", rb"ID3[\x02-\x04]|fLaC|OggS|RIFF....WAVE|\xff[\xf2\xf3\xfa\xfb]"),
    ("database", rb"SQLite format 3\x00|\x00\x01\x00\x00Standard (Jet|ACE) DB"),
    ("data file", rb"PAR1|Obj\x01|ARROW1\x00\x00|\x89HDF\r\n|\x93NUMPY"),
    ("archive", rb"PK(\x03\x04|\x05\x06)|Rar!\x1a\x07|7z\xbc\xaf\x27\x1c|\xfd7zXZ\x00|BZh[1-9]1AY|\x28\xb5\x2f\xfd"),
    ("Office document", rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),  # and Thumbs.db
    ("PDF", rb"%PDF"),
    ("macOS companion of a file", rb"\x00\x05\x16[\x00\x07]\x00\x02\x00\x00"),
    ("program", rb"\x7fELF|MZ.\x00|\xca\xfe\xba\xbe"),
)
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
    *(("not_an_image", name, rb"(?-i:" + pattern + rb")") for name, pattern in _NO_PICTURES),
    ("not_an_image", "HTML", rb"\s*<(!--|!doctype html|html|head|body)"),
    ("not_an_image", "XML", rb"\s*<[?!a-z]"),
    ("not_an_image", "JSON", rb"\s*[\[{]\s*[\[\]{}\"\d]"),
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


def is_no_picture(encoded: bytes | memoryview) -> bool:
    """Return whether the first bytes are of a video, a database, an archive or another file that is never a poster."""
    return looks_like(bytes(encoded[:1024]))[1] in dict(_NO_PICTURES)


def is_picture(encoded: bytes | memoryview) -> bool:
    """Return whether the first bytes are of a picture, also in a format that is not decoded here."""
    return looks_like(bytes(encoded[:1024]))[0] != "not_an_image"


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
    values = {word: directory.get(tag) for word, tag in tags.items()}  # None also where the file says no value
    return "samples of " + ", ".join(f"{word} {value}" for word, value in values.items() if value is not None)
