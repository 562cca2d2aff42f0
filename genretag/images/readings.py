"""What Pillow reads differently from what a file's format says, put right between opening and resizing.

Seen with Pillow 13. Each of these gives a picture of nonsense without an error. Where the file can be read rightly in
another of Pillow's raw modes, it is; otherwise the file is refused.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import BmpImagePlugin, Image, ImageFile, ImagePalette, PngImagePlugin, TiffImagePlugin

_BITS, _PHOTOMETRIC, _SAMPLES, _PALETTE, _PLANAR, _EXTRA, _FORMAT = 258, 262, 277, 320, 284, 338, 339
_WHITE_IS_ZERO, _YCBCR = 0, 6
_INKS, _SUBSAMPLING = 332, 530
DEEP_GREY = ("I;16", "I", "F")  # Pillow's modes of more than 8 bits, once a file is `set_right`
# Libtiff gives samples in this machine's byte order; these raw modes say the file's.
_NATIVE = {"F;32BF": "F;32NF", "I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32": "F;32N", "F;32B": "F;32N"}
_OTHER_BYTE = str.maketrans("LBN", "BLB")  # of a raw mode of 16 bits: what reads the low byte instead of the high


@dataclass(frozen=True)
class Reading:
    """What is known of an opened file besides Pillow's own facts."""

    frame: tuple[int, int, int, int] | None = None  # left, top, right, bottom: outside it the picture is transparent
    canvas: tuple[int, int] | None = None  # width and height, if the file that was opened holds only the frame
    key: tuple[int, ...] | None = None  # the transparent colour, of 16 bits per channel
    white: int | None = 65535  # of deep grey; None: the picture's own brightest value
    is_negative: bool = False  # deep grey whose 0 is white


def set_right(image: Image.Image, encoded: bytes) -> Reading:
    """Correct how an opened file will be loaded. Return what is to be done then.

    Raises Unreadable for what Pillow would load as something else.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _tiff(image)
    if isinstance(image, PngImagePlugin.PngImageFile):
        return _png(image, encoded)
    if isinstance(image, BmpImagePlugin.BmpImageFile):
        _bmp(image, encoded)
    elif image.format == "GIF" and isinstance(image, ImageFile.ImageFile):
        extents = image.tile[0].extents if image.tile else None
        if extents and extents != (0, 0, *image.size) and "transparency" not in image.info:
            return Reading(frame=extents)
    return Reading()


class Unreadable(ValueError):
    """A valid file that cannot be decoded here; the message says why, in words."""


def _tiff(image: TiffImagePlugin.TiffImageFile) -> Reading:
    tags = image.tag_v2
    photometric, bits = tags.get(_PHOTOMETRIC, 0), tags.get(_BITS, (1,))[0]
    if image.mode == "L" and max(tags.get(_FORMAT, (1,))) > 1:
        raise Unreadable("signed samples of 8 bits")
    if tags.get(_INKS, 1) != 1:
        raise Unreadable("inks other than cyan, magenta, yellow and black")
    if tags.get(_PLANAR, 1) == 2 and tags.get(_SAMPLES, 1) > 1:
        _planes(image)
    if photometric == _YCBCR and not image.use_load_libtiff and tags.get(_SUBSAMPLING, (2, 2)) != (1, 1):
        raise Unreadable("uncompressed YCbCr with colours for several pixels at once")
    raw_mode = _raw_mode(image)
    if image.use_load_libtiff and raw_mode in _NATIVE:
        _read_as(image, lambda _: _NATIVE[raw_mode])
    if image.mode in ("P", "PA") and max(tags[_PALETTE]) < 256:  # of 16 bits by the standard; some write 8
        image.palette = ImagePalette.raw("RGB;L", bytes(tags[_PALETTE]))
    if image.mode not in DEEP_GREY:
        return Reading()
    is_unsigned = max(tags.get(_FORMAT, (1,))) == 1
    return Reading(white=2**bits - 1 if is_unsigned else None, is_negative=photometric == _WHITE_IS_ZERO)


def _planes(image: TiffImagePlugin.TiffImageFile) -> None:
    """Correct how a file with a plane for each sample is read."""
    tags, raw_mode = image.tag_v2, _raw_mode(image)
    if image.mode not in ("RGB", "RGBA", "CMYK"):
        raise Unreadable(f"a plane for each sample of {image.mode}")
    if image.use_load_libtiff:
        if image.mode == "RGBA" and not tags.get(_EXTRA):
            raise Unreadable("compressed planes, the fourth of which is not said to be alpha")
    elif max(tags.get(_BITS, (1,))) == 16:
        if image.mode == "CMYK":
            raise Unreadable("a plane for each of four inks of 16 bits")
        order = "L" if tags.prefix == b"II" else "B"
        _read_as(image, lambda plane: f"{plane};16{order}")
    elif raw_mode not in "RGBACMYK":
        raise Unreadable(f"a plane for each sample of {image.mode}")


def _png(image: PngImagePlugin.PngImageFile, encoded: bytes) -> Reading:
    key = image.info.get("transparency")
    if key is None or image.mode == "P":
        return Reading()
    depth, keys = encoded[24], key if isinstance(key, tuple) else (key,)
    if depth == 16:  # Pillow has no transparent colour of 16 bits
        del image.info["transparency"]
        return Reading(key=keys)
    if image.mode != "1":  # of fewer bits than the 8 that Pillow makes of them
        most = 2**depth - 1
        keys = tuple((value & most) * 255 // most for value in keys)
        image.info["transparency"] = keys if isinstance(key, tuple) else keys[0]
    return Reading()


def _bmp(image: BmpImagePlugin.BmpImageFile, encoded: bytes) -> None:
    """Give a palette of greys back to pixels of several bits: Pillow takes them for samples of one bit, or of eight."""
    bits = encoded[24] if encoded[14] == 12 else encoded[28]  # by the oldest header, and by all others
    if image.mode not in ("1", "L") or bits not in (4, 8) or (image.mode == "L" and bits == 8):
        return
    greys = bytes([0, 255]) if image.mode == "1" else bytes(range(16))
    image._mode = "P"  # as Pillow's plugins set it
    image.palette = ImagePalette.raw("RGB", b"".join(bytes([grey] * 3) for grey in greys))
    if image.tile[0].codec_name != "bmp_rle":
        _read_as(image, lambda _: "P;4" if bits == 4 else "P")


def _raw_mode(image: Image.Image) -> str:
    """Return how the samples of an opened file are stored, in Pillow's terms; "" if there is no telling."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return _split(tiles[0].args)[0] if tiles else ""


def _read_as(image: ImageFile.ImageFile, other: Callable[[str], str]) -> None:
    """Change the raw mode of each part of an opened file."""
    tiles = []
    for tile in image.tile:
        raw_mode, others = _split(tile.args)
        changed = other(raw_mode)
        tiles.append(tile._replace(args=changed if isinstance(tile.args, str) else (changed, *others)))
    image.tile = tiles


def _split(args: tuple[Any, ...] | str | None) -> tuple[str, tuple[Any, ...]]:
    """Return the raw mode and the other arguments of a decoder."""
    return ("", ()) if not args else (args, ()) if isinstance(args, str) else (str(args[0]), args[1:])


def has_low_bytes(image: Image.Image) -> bool:
    """Return whether an opened file has colours of 16 bits of which Pillow drops the low 8."""
    return image.mode in ("RGB", "RGBA") and "a" not in _raw_mode(image) and _raw_mode(image)[-4:-1] == ";16"


def low_bytes(encoded: bytes) -> Image.Image:
    """Load a PNG or TIFF again with the low bytes of its 16-bit colours instead of the high ones."""
    opener = PngImagePlugin.PngImageFile if encoded.startswith(b"\x89PNG") else TiffImagePlugin.TiffImageFile
    image = opener(io.BytesIO(encoded))
    set_right(image, encoded)
    _read_as(image, lambda raw_mode: raw_mode[:-1] + raw_mode[-1].translate(_OTHER_BYTE))
    image.load()
    return image


def as_meant(image: Image.Image, reading: Reading, encoded: bytes) -> Image.Image:
    """Return a loaded picture with the transparency that its file says."""
    if reading.key:
        image = _keyed(image, reading.key, encoded)
    if image.mode == "La":  # premultiplied grey, which Pillow converts to nothing else
        image = image.convert("LA")
    if reading.frame:
        canvas = Image.new("RGBA", reading.canvas or image.size, (0, 0, 0, 0))
        frame = image if reading.canvas else image.crop(reading.frame)
        canvas.paste(frame if frame.mode == "RGBA" else frame.convert("RGBA"), reading.frame)
        image = canvas
    return image


def _keyed(image: Image.Image, key: tuple[int, ...], encoded: bytes) -> Image.Image:
    """Return 8-bit RGBA in which pixels of the 16-bit colour `key` are transparent."""
    if len(key) == 1:
        deep = np.asarray(image)
        is_key = deep == key[0]
        keyed = Image.fromarray(to_8_bits(np.arange(65536), Reading())[deep]).convert("RGBA")
    else:
        pairs = np.array(key, np.uint16)
        is_key = (np.asarray(image) == pairs >> 8).all(axis=-1)
        is_key &= (np.asarray(low_bytes(encoded)) == pairs & 255).all(axis=-1)
        keyed = image.convert("RGBA")
    keyed.putalpha(Image.fromarray(np.where(is_key, np.uint8(0), np.uint8(255))))
    return keyed


def to_8_bits(grey: np.ndarray, reading: Reading) -> np.ndarray:
    """Scale deep grey, any shape, to uint8 of the same shape.

    Signed and floating-point grey have no white that all programs agree on: the darkest and the brightest value become
    0 and 255.
    """
    if reading.white:
        scaled = grey / (reading.white / 255)
    else:
        finite = np.nan_to_num(grey.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        scaled = (finite - finite.min()) * (255 / (np.ptp(finite) or 1))
    levels = np.clip(scaled, 0, 255).round().astype(np.uint8)
    return 255 - levels if reading.is_negative else levels


def deep_bytes(image: Image.Image, reading: Reading) -> tuple[Image.Image, Image.Image]:
    """Return 16-bit grey as two pictures of its high and its low bytes, white being 65,535."""
    grey = np.asarray(image)
    if reading.white != 65535:
        grey = (grey * (65535 / (reading.white or 1))).round().astype(np.uint16)
    if reading.is_negative:
        grey = 65535 - grey
    return Image.fromarray((grey >> 8).astype(np.uint8)), Image.fromarray((grey & 255).astype(np.uint8))
