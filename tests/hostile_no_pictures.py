"""Files that are no images, or images in formats that genretag does not decode, under names of posters."""

import gzip
import io
import zipfile

from hostile_file import HostileFile
from image_corpus import encode, scene


def no_pictures() -> list[HostileFile]:
    page = b"<!DOCTYPE html><html><head><title>404</title></head><body>Not Found</body></html>"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr(zipfile.ZipInfo("poster.jpg"), encode(scene(), "JPEG"))
    texts = {
        "html": page,
        "html-after-a-comment": b"<!-- cached -->\n" + page,
        "html-in-utf-16": page.decode().encode("utf-16"),
        "html-behind-a-bom": b"\xef\xbb\xbf" + page,
        "xml-error": b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code></Error>',
        "json-error": b'{"message": "rate limit exceeded"}',
        "json-list": b"[1, 2, 3]",
        "plain-text": b"Internal Server Error\n",
        "text-in-utf-16": "kein Plakat".encode("utf-16"),
        "text-in-latin-1": "kein Plakat für Sie".encode("latin-1"),
        "redirect": b"HTTP/1.1 302 Found\r\nLocation: https://example.org/login\r\n\r\n",
        "lfs-pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "csv": b"id,genre\n1,Drama\n",
        "one-byte": b"\xff",
        "one-letter": b"x",
        "spaces": b" " * 5000,
        "zeros": bytes(33_000),
        "ones": b"\xff" * 33_000,
        "counting": bytes(range(256)) * 100,
        "gzip": gzip.compress(page, mtime=0),
        "zip": archive.getvalue(),
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
        "video": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(500),
        "program": b"\x7fELF\2\1\1" + bytes(500),
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "shell": b"#!/bin/sh\nrm -rf /\n",
    }
    return [
        HostileFile("empty.jpg", b"", "empty"),
        *(HostileFile(f"{name}.jpg", data, "not_an_image") for name, data in texts.items()),
        *_other_formats(),
    ]


def _other_formats() -> list[HostileFile]:
    entity = b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><text>&x;</text></svg>'
    bombs = b"".join(b'<!ENTITY %c "&%c;&%c;">' % (name + 1, name, name) for name in range(97, 122))
    formats = {
        "heic.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500),
        "heic-named-jpg.jpg": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(500),
        "jpeg-xl.jxl": b"\xff\x0a" + bytes(500),
        "jpeg-xl-in-boxes.jxl": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(500),
        "jpeg-2000.jp2": encode(scene(), "JPEG2000"),
        "jpeg-2000-60000-x-60000.j2k": b"\xff\x4f\xff\x51\0\x2f\0\0\0\0\xea\x60\0\0\xea\x60" + bytes(40),
        "svg-with-an-entity.svg": b'<?xml version="1.0"?>' + entity + svg,
        "svg-plain.svg": svg,
        "svg-billion-laughs.svg": b'<?xml version="1.0"?><!DOCTYPE svg [' + bombs[:400] + b"]>" + svg,
        "eps.eps": encode(scene(), "EPS"),
        "eps-that-runs.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%true) (w) file\n",
        "icon.ico": encode(scene(), "ICO"),
        "icon-of-60000-x-60000.ico": b"\0\0\1\0\1\0\0\0\0\0\1\0\x20\0\xff\xff\xff\x7f\x16\0\0\0",
        "mac-icon.icns": encode(scene().resize((128, 128)), "ICNS"),
        "photoshop.jpg": b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\xea\x60\0\0\xea\x60\0\x08\0\3" + bytes(100),
    }
    return [
        *(HostileFile(name, data, "unsupported_format") for name, data in formats.items()),
        *(
            HostileFile(f"{name}-named-jpg.jpg", encode(scene(), name), "not_an_image")
            for name in ("ppm", "tga", "pcx", "dds")
        ),
    ]
