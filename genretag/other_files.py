"""Tell files that are no posters: by their names, without reading them, or by what reading them said.

Buckets and folders hold more than posters: films and subtitles of a media server, sidecars of a photo tool, markers of
Hadoop. Such a file becomes a failure row with the reason `other_file`, once, and uses up nothing of the error budget.

The names below do not belong to pictures that can be decoded here, so these files are not even fetched. Names that say
nothing (no ending, `.bin`, `.php`, `.v2`) are read, because many stores keep pictures under such names.
"""

import posixpath
import re
from collections.abc import Mapping

from genretag.images.signatures import is_no_picture

OTHER_FILE = "other_file"  # the reason of what is no poster and was not called an image
UNNAMED = "other"  # the kind of a file that only reading it showed to be no poster

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
_WHOLE_NAMES = {  # the hidden ones are met in buckets only, because a folder's are not listed
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
    """Return what a file is, such as `video`, if its name says that it is no poster; else none."""
    name = uri.rpartition("/")[2]
    if _SYSTEM.search(uri):
        return "system file"
    for kind, names in _MARKS:
        if names.fullmatch(name):
            return kind
    stem, dot, ending = name.rpartition(".")
    return _KINDS.get(ending.lower()) if stem and dot else None


def is_called_an_image(uri: str) -> bool:
    """Return whether a name ends like that of a picture, also in a format that is not decoded here."""
    return IMAGE_NAME.search(uri) is not None


def is_other_content(uri: str, reason: str, data: bytes | memoryview) -> bool:
    """Return whether a file that gave no picture, for a reason of `genretag.images.REASONS`, is no poster at all.

    It is a poster if it is called an image. A name without an ending says nothing: then what is text, as the error
    page that a crawler saved, is a poster that is broken, and what is a video or a database is none.
    """
    if is_called_an_image(uri) or reason not in ("not_an_image", "empty"):
        return False
    has_ending = bool(posixpath.splitext(uri)[1]) or uri.endswith("/")
    return has_ending or (reason == "not_an_image" and is_no_picture(data))


def other_files_in_words(kinds: Mapping[str, int]) -> str:
    """Return one line that says how many files are no posters, by kind: `3 files are no posters (2 video, 1 text)`."""
    total = sum(kinds.values())
    files = "1 file is no poster" if total == 1 else f"{total:,} files are no posters"
    return f"{files} ({', '.join(f'{count:,} {kind}' for kind, count in kinds.items())})"
