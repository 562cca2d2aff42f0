"""Small images, whole and broken, that the tests of the decoder build in memory."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # number of the EXIF tag

# By EXIF orientation: how to turn an upright picture before it is stored, so that a viewer turns it back.
_STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

NOT_IMAGES = {
    "HTML": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "JSON": b'{"error": "not found"}',
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "text": b"Not Found\n",
    "nothing known": bytes(range(100, 256)),
}

UNSUPPORTED = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
    "JPEG XL": b"\xff\x0a" + bytes(64),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64),
    "SVG": b'\xef\xbb\xbf<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "ICO": b"\0\0\1\0\1\0\x10\x10" + bytes(64),
}


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    """Return an image as the bytes of a file in this format."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def scene(width: int = 80, height: int = 120) -> Image.Image:
    """Return a smooth RGB picture with four different corners, so that a test notices each turn and flip."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / (width - 1), 255 * y / (height - 1)
    blue = 128 + 100 * np.sin(4 * np.pi * x / width) * np.cos(2 * np.pi * y / height)
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))


def exif(orientation: object) -> Image.Exif:
    """Return EXIF data with nothing but an orientation."""
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def turned(upright: Image.Image, orientation: int, image_format: str = "JPEG", **options: object) -> bytes:
    """Return a file that stores `upright` turned, with the EXIF orientation that makes a viewer turn it back."""
    method = _STORED[orientation]
    stored = upright if method is None else upright.transpose(method)
    return encode(stored, image_format, exif=exif(orientation), **options)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a PNG chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_promising(width: int, height: int) -> bytes:
    """Return a PNG of under 100 bytes whose header declares width x height pixels. It has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, content) for kind, content in chunks)
