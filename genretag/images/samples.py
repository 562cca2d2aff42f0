"""Correct Pillow where it reads the samples of a file differently from what the file's format says.

The cases were found with Pillow 13. Without a correction, Pillow returns wrong pixels and raises no error. If another
of Pillow's raw modes reads the file correctly, that raw mode is used. Otherwise the file is refused (`Unreadable`).

Three features of PNG need special handling too. Pillow refuses texts that unpack to very many bytes. It ignores the
colour chunk cICP. It takes the default image of an APNG for the first frame even if the animation does not include it.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import BmpImagePlugin, Image, ImageFile, ImagePalette, PngImagePlugin, TiffImagePlugin

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_COLOURS = (b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"eXIf")  # these apply to all frames

Chunk = tuple[bytes, bytes]  # (type, content)


def png_chunks(encoded: bytes) -> Iterator[Chunk]:
    """Yield the chunks of a PNG in file order. Stop at a chunk that the file's end cuts off. Do not check checksums."""
    at = len(_SIGNATURE)
    while at + 12 <= len(encoded):
        end = at + 12 + int.from_bytes(encoded[at : at + 4])
        if end > len(encoded):
            return
        yield encoded[at + 4 : at + 8], encoded[at + 8 : end - 4]
        at = end


def has_swollen_texts(error: ValueError) -> bool:
    """Return whether `error` means that Pillow refused a PNG because its texts or its profile unpack to too many bytes.

    Pillow has no exception type for this case, so the function looks at the message.
    """
    return "MAX_TEXT_" in str(error)


def without_texts(encoded: bytes) -> bytes:
    """Return a PNG without its text chunks and its colour profile. An orientation in a text chunk is lost too.

    `decode` calls this if these chunks unpack to more bytes than Pillow accepts. Such chunks are a decompression
    bomb, or the large profile of a good scanner. Without the profile, the colours count as sRGB. Texts do not affect
    the pixels.
    """
    kept, at = [encoded[:8]], 8
    while at + 8 <= len(encoded):
        end = at + 12 + int.from_bytes(encoded[at : at + 4])
        if encoded[at + 4 : at + 8] not in _TEXTS:
            kept.append(encoded[at:end])
        at = end
    return b"".join(kept)


def png_code_points(encoded: bytes) -> tuple[int, int, int, int] | None:
    """Return (primaries, transfer, matrix, full range) from a PNG's cICP chunk, or None if no cICP precedes the pixels.

    The first three are code points of H.273. Full range is 1, or 0 if black is stored as 16 and white as 235 of 255.
    """
    for kind, content in png_chunks(encoded):
        if kind == b"IDAT":
            return None
        if kind == b"cICP" and len(content) == 4:
            return content[0], content[1], content[2], content[3]
    return None


def hidden_first_frame(encoded: bytes) -> tuple[bytes, tuple[int, int, int, int]] | None:
    """Return an APNG's first frame as a PNG, and its (left, top, right, bottom) on the canvas, if the frame is hidden.

    The frame is hidden if the APNG's default image is not part of the animation, but a placeholder for programs that
    cannot show animations. If the default image is the first frame, or if the PNG has no animation, return None. Return
    None also if the first frame has no data or reaches beyond the canvas.
    """
    header, colours, frame, data = b"", [], None, []
    is_animated = False
    for kind, content in png_chunks(encoded):
        if kind == b"IHDR":
            header = content
        elif kind == b"acTL":
            is_animated = True
        elif kind in _COLOURS and frame is None:
            colours.append((kind, content))
        elif kind == b"IDAT" and (frame or not is_animated):
            return None
        elif kind == b"fcTL" and frame is None and len(content) == 26:
            frame = struct.unpack(">4I", content[4:20])
        elif kind == b"fdAT" and frame:
            data.append((b"IDAT", content[4:]))
        elif kind in (b"fcTL", b"IEND") and data:
            break
    if not frame or not data or len(header) != 13:
        return None
    width, height, left, top = frame
    canvas_width, canvas_height = struct.unpack(">2I", header[:8])
    if 0 in (width, height) or left + width > canvas_width or top + height > canvas_height:
        return None
    chunks = [(b"IHDR", struct.pack(">2I", width, height) + header[8:]), *colours, *data, (b"IEND", b"")]
    return _SIGNATURE + b"".join(map(_stored, chunks)), (left, top, left + width, top + height)


def _stored(chunk: Chunk) -> bytes:
    """Return a PNG chunk as the bytes of a file, with its length and checksum."""
    kind, content = chunk
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# Numbers of TIFF tags, and two values of the tag PhotometricInterpretation
_BITS, _PHOTOMETRIC, _SAMPLES, _PALETTE, _PLANAR, _EXTRA, _FORMAT = 258, 262, 277, 320, 284, 338, 339
_WHITE_IS_ZERO, _YCBCR = 0, 6
_INKS, _SUBSAMPLING = 332, 530
DEEP_GREY = ("I;16", "I", "F")  # Pillow's grey modes of more than 8 bits, after `set_right`
# libtiff returns samples in the byte order of this machine, but Pillow gives libtiff's output the raw mode for the byte
# order of the file. Here is the right raw mode for each wrong one.
_NATIVE = {"F;32BF": "F;32NF", "I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32": "F;32N", "F;32B": "F;32N"}
_OTHER_BYTE = str.maketrans("LBN", "BLB")  # changes a 16-bit raw mode to read low bytes, not high bytes


@dataclass(frozen=True)
class Reading:
    """Facts that Pillow does not report, and that correct a loaded picture: its frame, transparent colour and white.

    With the default values, a loaded picture needs no correction. Deep grey means grey of more than 8 bits.
    """

    frame: tuple[int, int, int, int] | None = None  # (left, top, right, bottom); the picture is transparent outside
    canvas: tuple[int, int] | None = None  # (width, height) of the picture, if the opened file is only its `frame`
    key: tuple[int, ...] | None = None  # the transparent colour, with 16 bits per channel
    white: int | None = 65535  # white level of deep grey; None: the brightest value in the picture
    is_negative: bool = False  # True: in deep grey, 0 is white


def set_right(image: Image.Image, encoded: bytes) -> Reading:
    """Change `image`, a file that Pillow has opened, so that Pillow will load its pixels correctly.

    Return what `as_meant`, `to_8_bits` and `deep_bytes` must know to correct the loaded picture. `encoded` is the
    content of the file.
    Raises Unreadable if Pillow would load wrong pixels and no correction helps.
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
    """Error for a valid file whose samples or colours genretag cannot decode. The message says why, in words."""


def _tiff(image: TiffImagePlugin.TiffImageFile) -> Reading:
    """Correct how Pillow will load an opened TIFF, and return what corrections after the loading must know.

    Raises Unreadable if Pillow would load wrong pixels and no correction helps.
    """
    tags = image.tag_v2
    photometric, bits = tags.get(_PHOTOMETRIC, 0), tags.get(_BITS, (1,))[0]
    if image.mode == "L" and max(tags.get(_FORMAT, (1,))) > 1:
        raise Unreadable("signed samples of 8 bits")
    if tags.get(_INKS, 1) != 1:
        raise Unreadable("inks other than cyan, magenta, yellow and black")
    if tags.get(_PLANAR, 1) == 2 and tags.get(_SAMPLES, 1) > 1:
        _planes(image)
    if photometric == _YCBCR and not image.use_load_libtiff and tags.get(_SUBSAMPLING, (2, 2)) != (1, 1):
        raise Unreadable("uncompressed YCbCr with chroma subsampling")
    raw_mode = _raw_mode(image)
    if image.use_load_libtiff and raw_mode in _NATIVE:
        _read_as(image, lambda _: _NATIVE[raw_mode])
    if image.mode in ("P", "PA") and max(tags[_PALETTE]) < 256:  # the standard says 16 bits; some programs write 8
        image.palette = ImagePalette.raw("RGB;L", bytes(tags[_PALETTE]))
    if image.mode not in DEEP_GREY:
        return Reading()
    is_unsigned = max(tags.get(_FORMAT, (1,))) == 1
    return Reading(white=2**bits - 1 if is_unsigned else None, is_negative=photometric == _WHITE_IS_ZERO)


def _planes(image: TiffImagePlugin.TiffImageFile) -> None:
    """Correct how Pillow will load a TIFF that stores each sample (red, green, blue) in a separate plane.

    Raises Unreadable if Pillow cannot load the planes correctly.
    """
    tags, raw_mode = image.tag_v2, _raw_mode(image)
    if image.mode not in ("RGB", "RGBA", "CMYK"):
        raise Unreadable(f"a plane for each sample of {image.mode}")
    if image.use_load_libtiff:
        if image.mode == "RGBA" and not tags.get(_EXTRA):
            raise Unreadable("compressed planes, and the fourth plane is not declared as alpha")
    elif max(tags.get(_BITS, (1,))) == 16:
        if image.mode == "CMYK":
            raise Unreadable("a plane for each of four inks of 16 bits")
        order = "L" if tags.prefix == b"II" else "B"
        _read_as(image, lambda plane: f"{plane};16{order}")
    elif raw_mode not in "RGBACMYK":
        raise Unreadable(f"a plane for each sample of {image.mode}")


def _png(image: PngImagePlugin.PngImageFile, encoded: bytes) -> Reading:
    """Correct the transparent colour of an opened PNG.

    If the colour has 16 bits per channel, which Pillow does not support, remove the colour from `image` and return it
    as `Reading.key`. If the colour has fewer than 8 bits, scale it to 8 bits, as Pillow scales the pixels.
    """
    key = image.info.get("transparency")
    if key is None or image.mode == "P":
        return Reading()
    depth, keys = encoded[24], key if isinstance(key, tuple) else (key,)
    if depth == 16:  # Pillow has no transparent colour of 16 bits
        del image.info["transparency"]
        return Reading(key=keys)
    if image.mode != "1":  # samples of fewer bits, which Pillow scales to 8
        most = 2**depth - 1
        keys = tuple((value & most) * 255 // most for value in keys)
        image.info["transparency"] = keys if isinstance(key, tuple) else keys[0]
    return Reading()


def _bmp(image: BmpImagePlugin.BmpImageFile, encoded: bytes) -> None:
    """Restore the palette of an opened BMP with pixels of 4 or 8 bits, if the palette is grey or black and white.

    Pillow drops such a palette. It would then read pixels of 4 bits as samples of 1 or 8 bits. If the palette is black
    and white, it would also read pixels of 8 bits as samples of 1 bit.
    """
    bits = encoded[24] if encoded[14] == 12 else encoded[28]  # the oldest header has another layout than all others
    if image.mode not in ("1", "L") or bits not in (4, 8) or (image.mode == "L" and bits == 8):
        return
    greys = bytes([0, 255]) if image.mode == "1" else bytes(range(16))
    image._mode = "P"  # Pillow has no public setter; its plugins set `_mode` too
    image.palette = ImagePalette.raw("RGB", b"".join(bytes([grey] * 3) for grey in greys))
    if image.tile[0].codec_name != "bmp_rle":
        _read_as(image, lambda _: "P;4" if bits == 4 else "P")


def _raw_mode(image: Image.Image) -> str:
    """Return Pillow's raw mode for the samples of an opened file, or "" if it is unknown."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return _split(tiles[0].args)[0] if tiles else ""


def _read_as(image: ImageFile.ImageFile, other: Callable[[str], str]) -> None:
    """Change the raw mode in which Pillow will read each tile of a file. `other` maps the old raw mode to the new."""
    tiles = []
    for tile in image.tile:
        raw_mode, others = _split(tile.args)
        changed = other(raw_mode)
        tiles.append(tile._replace(args=changed if isinstance(tile.args, str) else (changed, *others)))
    image.tile = tiles


def _split(args: tuple[Any, ...] | str | None) -> tuple[str, tuple[Any, ...]]:
    """Split the arguments of one of Pillow's decoders into the raw mode and the other arguments."""
    return ("", ()) if not args else (args, ()) if isinstance(args, str) else (str(args[0]), args[1:])


def has_low_bytes(image: Image.Image) -> bool:
    """Return whether an opened file has colours of 16 bits per channel, of which Pillow drops the low 8 bits."""
    return image.mode in ("RGB", "RGBA") and "a" not in _raw_mode(image) and _raw_mode(image)[-4:-1] == ";16"


def low_bytes(encoded: bytes) -> Image.Image:
    """Load a PNG or TIFF with 16 bits per channel, and return a picture of the low bytes instead of the high bytes."""
    opener = PngImagePlugin.PngImageFile if encoded.startswith(b"\x89PNG") else TiffImagePlugin.TiffImageFile
    image = opener(io.BytesIO(encoded))
    set_right(image, encoded)
    _read_as(image, lambda raw_mode: raw_mode[:-1] + raw_mode[-1].translate(_OTHER_BYTE))
    image.load()
    return image


def as_meant(image: Image.Image, reading: Reading, encoded: bytes) -> Image.Image:
    """Return a loaded picture with the transparency that its file declares.

    `reading` is the result of `set_right`, and `encoded` is the content of the file.
    """
    if reading.key:
        image = _keyed(image, reading.key, encoded)
    if image.mode == "La":  # premultiplied grey, which Pillow can convert only to LA
        image = image.convert("LA")
    if reading.frame:
        canvas = Image.new("RGBA", reading.canvas or image.size, (0, 0, 0, 0))
        frame = image if reading.canvas else image.crop(reading.frame)
        canvas.paste(frame if frame.mode == "RGBA" else frame.convert("RGBA"), reading.frame)
        image = canvas
    return image


def _keyed(image: Image.Image, key: tuple[int, ...], encoded: bytes) -> Image.Image:
    """Return `image` as 8-bit RGBA in which pixels with the 16-bit colour `key` are transparent.

    `key` has one value for grey or three for RGB. `encoded` is the content of the file.
    """
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
    """Scale grey values of more than 8 bits, of any shape, to uint8 of the same shape.

    `reading.white` and larger values become 255. If `reading.white` is None, the darkest and the brightest value become
    0 and 255, and NaN and infinity count as 0. Signed and floating-point grey has no `reading.white`, because programs
    do not agree on its white. If `reading.is_negative`, the result is inverted.
    """
    if reading.white:
        scaled = grey / (reading.white / 255)
    else:
        finite = np.nan_to_num(grey.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        scaled = (finite - finite.min()) * (255 / (np.ptp(finite) or 1))
    levels = np.clip(scaled, 0, 255).round().astype(np.uint8)
    return 255 - levels if reading.is_negative else levels


def deep_bytes(image: Image.Image, reading: Reading) -> tuple[Image.Image, Image.Image]:
    """Scale 16-bit grey so that white is 65,535. Return the high and the low bytes as two pictures of 8 bits.

    If `reading.is_negative`, the grey values are inverted too.
    """
    grey = np.asarray(image)
    if reading.white != 65535:
        grey = (grey * (65535 / (reading.white or 1))).round().astype(np.uint16)
    if reading.is_negative:
        grey = 65535 - grey
    return Image.fromarray((grey >> 8).astype(np.uint8)), Image.fromarray((grey & 255).astype(np.uint8))
