"""Recognise what a file is by its name or its first bytes, and which files are not posters at all.

Buckets and folders hold more than posters: films and subtitles of a media server, sidecars of a photo tool, markers of
Hadoop. Such a file gets one failure row with the reason `other_file`. It does not count towards the error budget (the
number of posters that may fail in a run).

`kind_by_name` knows names that no decodable picture has. Files with such names are never fetched. Files whose names
give no hint (no extension, `.bin`, `.php`, `.v2`) are fetched, because many stores use such names for pictures.

If a file could not be decoded, `looks_like` recognises its format by its first bytes. `ends_early` finds a missing end,
and `not_decoded` finds features that Pillow does not support.

`configure_pillow` sets Pillow's limits and warnings for the whole process, because Pillow has no thread-safe way to set
them for one call.
"""

import ctypes
import io
import posixpath
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress

from PIL import Image, TiffImagePlugin, UnidentifiedImageError, _imaging

_II, _MM = TiffImagePlugin.II, TiffImagePlugin.MM
# Layouts of grey TIFF, added to Pillow's table: (byte order, WhiteIsZero 0 or BlackIsZero 1, sample format, fill order,
# bits, extra samples) -> (mode, raw mode). Pillow lacks some of them and reads unsigned 32 bits as signed. Its resize
# turns mode I;16B (big-endian 16 bits) into noise. `genretag.images.samples` inverts WhiteIsZero after loading.
_TIFF_GREY: dict[tuple[bytes, int, tuple[int], int, tuple[int, ...], tuple[int, ...]], tuple[str, str]] = {
    **{(order, zero, (1,), 1, (12,), ()): ("I;16", "I;12") for order in (_II, _MM) for zero in (0, 1)},
    **{(_MM, zero, (1,), 1, (16,), ()): ("I;16", "I;16B") for zero in (0, 1)},
    **{(_II, zero, (1,), 1, (32,), ()): ("F", "F;32") for zero in (0, 1)},
    **{(_MM, zero, (1,), 1, (32,), ()): ("F", "F;32B") for zero in (0, 1)},
}


def configure_pillow() -> None:
    """Set up Pillow for the whole process. Call this before any thread decodes.

    Turn off Pillow's pixel limit and its warnings, let it read more kinds of grey TIFF, and register all formats.
    """
    Image.MAX_IMAGE_PIXELS = None  # ImageLimits replaces this limit, which would warn, and refuse at twice the limit
    # Warnings about odd metadata, and about each strip that libtiff cannot read, would fill the logs of a run.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    _silence_libtiff()
    TiffImagePlugin.OPEN_INFO.update(_TIFF_GREY)
    Image.init()


def _silence_libtiff() -> None:
    """Turn off the messages that libtiff writes to stderr. No error is lost: Pillow raises them as exceptions."""
    with suppress(OSError, AttributeError):  # Pillow is built without libtiff, or does not export its functions
        libtiff = ctypes.CDLL(_imaging.__file__)  # also finds functions of libraries that Pillow's module links to
        libtiff.TIFFSetErrorHandler(None)
        libtiff.TIFFSetWarningHandler(None)


# Kinds of files that are never posters: (name, pattern of the first bytes). Web pages and texts are not listed here,
# because a failed download may have saved one in place of a poster.
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
# (reason, name, pattern of the first bytes). The first match wins. Formats that genretag.images decodes have the reason
# "corrupt", because a file is looked up here after decoding has failed.
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
    ("not_an_image", "zeros only", rb"\0+\Z"),  # first KB: a broken upload that left only the file's size
    ("not_an_image", "text", rb"[\s!-~]+\Z"),
)
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND", "GIF": b"\0;"}  # bytes that are in the last KB of a complete file


def looks_like(encoded: bytes) -> tuple[str, str]:
    """Return (reason, name) for a file that could not be decoded, judged by its first bytes.

    The reason is a key of `decoding.REASONS`: `corrupt` for formats that genretag decodes, `unsupported_format` for
    other image formats, and `not_an_image` for the rest. The name is the format, such as `JPEG` or `HTML`. If the
    format is unknown, the name quotes the first bytes.
    """
    head = encoded[:1024]
    text = head.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that some editors write before UTF-8
    for reason, name, pattern in _SIGNATURES:
        if re.match(pattern, text, re.DOTALL | re.IGNORECASE):
            return reason, name
    return "not_an_image", f"nothing known, first bytes {head[:8].hex(' ')}"


def is_no_picture(encoded: bytes | memoryview) -> bool:
    """Return whether the first 1,024 bytes show a file that is never a poster, such as a video or an archive."""
    return looks_like(bytes(encoded[:1024]))[1] in dict(_NO_PICTURES)


def is_picture(encoded: bytes | memoryview) -> bool:
    """Return whether the first 1,024 bytes show an image format. Formats that genretag cannot decode count too."""
    return looks_like(bytes(encoded[:1024]))[0] != "not_an_image"


def ends_early(encoded: bytes, name: str) -> bool:
    """Return whether the end of a file is missing. `name` is the file's format, such as `JPEG`.

    Only WEBP, JPEG, PNG and GIF are checked. For other formats, return False.
    """
    if name == "WEBP":
        return int.from_bytes(encoded[4:8], "little") + 8 > len(encoded)
    return name in _ENDS and _ENDS[name] not in encoded[-1024:]


# Pillow's messages for valid files that it cannot decode. Pillow has no exception type for that.
_UNKNOWN = ("unknown pixel mode", "unknown raw mode", "cannot handle", "Unsupported BMP", "not yet supported")


def not_decoded(encoded: bytes, name: str, error: Exception) -> str | None:
    """Return, in words, which feature of a file Pillow does not support. Return None if the file is broken instead.

    `name` is the format that `looks_like` returned, and `error` is the exception that Pillow raised for the file.
    """
    if isinstance(error, UnidentifiedImageError) and name in Image.OPEN:
        try:  # call the format's plugin, because `Image.open` drops the errors of plugins
            Image.OPEN[name][0](io.BytesIO(encoded), "")
        except Exception as cause:  # noqa: BLE001  hostile bytes make Pillow raise nearly any exception
            error = cause
    # The TIFF has an unknown compression number, or a plane for which Pillow has no name.
    is_layout = name == "TIFF" and isinstance(error.__cause__, KeyError | IndexError)
    if is_layout or any(text in str(error) for text in _UNKNOWN):
        return _tiff_samples(encoded) if name == "TIFF" else str(error)
    return None


def _tiff_samples(encoded: bytes) -> str:
    """Return a description of how a TIFF stores its samples, with the numbers in its tags."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(encoded[: 16 if encoded[2:3] == b"+" else 8])
    with io.BytesIO(encoded) as file:
        file.seek(directory.next)
        directory.load(file)  # Pillow has just read the directory in the same way
    tags = {"photometric": 262, "bits": 258, "format": 339, "extra": 338, "planar": 284, "compression": 259}
    values = {word: directory.get(tag) for word, tag in tags.items()}  # None also if a tag has no value
    return "samples of " + ", ".join(f"{word} {value}" for word, value in values.items() if value is not None)


OTHER_FILE = "other_file"  # the failure reason of a file that is no poster and has no image extension
UNNAMED = "other"  # the kind of a file whose content, not its name, shows that it is no poster

IMAGE_NAME = re.compile(
    r"\.(jpe?g?|jfif|a?png|webp|gif|bmp|dib|tiff?|avif|hei[cf]|jxl|jp2|svg|ico|img)$", re.IGNORECASE
)
_ENDINGS = {
    "video": "mkv mp4 m4v avi mov wmv asf flv f4v webm mpg mpeg mpe m2v m2ts mts ts vob ogv ogm 3gp 3g2 divx rmvb mxf "
    "ifo bup iso strm bif",
    "audio": "mp3 m4a m4b aac ac3 eac3 dts flac ogg oga wav wma aif aiff mka mid midi m3u m3u8 pls cue",
    "subtitles": "srt sub idx ass ssa vtt sup smi sami ttml dfxp lrc",
    "text": "txt md rst rtf tex log nfo html htm xhtml css js pdf epub mobi doc docx odt ppt pptx xls xlsx ods eml url "
    "webloc lnk desktop torrent",
    "sidecar": "xmp json jsonl ndjson xml yaml yml toml ini cfg conf properties aae thm pp3 md5 sha1 sha256 sha512 sfv "
    "par2 crc etag asc",
    "data": "csv tsv parquet orc avro arrow feather db db3 sqlite sqlite3 mdb accdb dbf sql db-wal db-shm db-journal "
    "npy npz h5 hdf5 pkl pickle pt pth ckpt onnx safetensors tfrecord tfrecords",
    "archive": "zip zipx rar 7z tar tgz tbz tbz2 txz gz bz2 xz zst lz4 lzma dmg deb rpm apk cbz cbr cb7",
    "program": "py pyc ipynb sh bat cmd ps1 exe dll so dylib wasm ttf otf woff woff2 eot",
    "temporary file": "part partial crdownload opdownload filepart aria2 !ut !qb tmp swp",
    "original of an editor or a camera": "psd psb xcf kra ai indd afphoto afdesign cr2 cr3 crw nef nrw arw srf sr2 raf "
    "orf rw2 pef srw dng iiq x3f",
}
_KINDS = {ending: kind for kind, endings in _ENDINGS.items() for ending in endings.split()}
_WHOLE_NAMES = {  # kind -> file names. Hidden names (`.x`) occur only in buckets: local listings leave them out.
    "marker": r"_success|_(committed|started)_\d+|_(common_)?metadata|\.(git)?keep|\.placeholder|\.nomedia|"
    r".*_\$folder\$",
    "system file": r"\._.*|\.ds_store|\.localized|\.directory|thumbs\.db|ehthumbs\.db|desktop\.ini|"
    r".*[:\uf03a]zone\.identifier|.*@syno[a-z]*stream|syno(file|photo)_thumb_.*",
    "text": r"readme|licen[sc]e|copying|notice|authors|changelog|makefile|dockerfile|(md5|sha\d+)sums",
}
_SYSTEM_FOLDERS = r"@eadir|\.@__thumb|\.appledouble|__macosx|\$recycle\.bin|#recycle|system volume information"
_MARKS = [(kind, re.compile(names, re.IGNORECASE | re.DOTALL)) for kind, names in _WHOLE_NAMES.items()]
_SYSTEM = re.compile(f"/({_SYSTEM_FOLDERS})/", re.IGNORECASE)


def kind_by_name(uri: str) -> str | None:
    """Return the kind of a file, such as `video`, if its name shows that the file is no poster. Else return None."""
    name = uri.rpartition("/")[2]
    if _SYSTEM.search(uri):
        return "system file"
    for kind, names in _MARKS:
        if names.fullmatch(name):
            return kind
    stem, dot, ending = name.rpartition(".")
    return _KINDS.get(ending.lower()) if stem and dot else None


def is_called_an_image(uri: str) -> bool:
    """Return whether a name has the extension of an image format, including formats that genretag cannot decode."""
    return IMAGE_NAME.search(uri) is not None


def is_other_content(uri: str, reason: str, data: bytes | memoryview) -> bool:
    """Return whether a file that could not be decoded is something other than a poster, such as a video.

    `reason` is a key of `decoding.REASONS`, and `data` is the file's content. Return False for a broken poster: a file
    with an image extension, or with a reason other than `not_an_image` and `empty`. Return True for other files with
    any extension, or with a name that ends with `/`. For a file without an extension, return True only if its content
    is, for example, a video or a database. Text without an extension counts as a broken poster, because it may be an
    error page that a crawler saved.
    """
    if is_called_an_image(uri) or reason not in ("not_an_image", "empty"):
        return False
    has_ending = bool(posixpath.splitext(uri)[1]) or uri.endswith("/")
    return has_ending or (reason == "not_an_image" and is_no_picture(data))


def other_files_in_words(kinds: Mapping[str, int]) -> str:
    """Return a line that says how many files are no posters: `3 files are no posters (2 video, 1 text)`.

    `kinds` maps each kind of file to the number of files.
    """
    total = sum(kinds.values())
    files = "1 file is no poster" if total == 1 else f"{total:,} files are no posters"
    return f"{files} ({', '.join(f'{count:,} {kind}' for kind, count in kinds.items())})"
