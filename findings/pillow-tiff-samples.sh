#!/usr/bin/env bash
# Pillow 13.0.0 opens these valid TIFF and PNG files without an error or a warning and gives other pixels than tifffile
# 2026.3.3, or than the PNG specification says:
# - float32, big-endian, deflated: the bytes of each sample come in the wrong order (uncompressed they are right);
# - RGB of 16 bits in separate planes, uncompressed: bytes are taken for samples (deflated they are right);
# - 16-bit grey, big-endian: the samples are right, and resize() makes noise of them;
# - grey PNG of 4 bits with a transparent value 7 (tRNS): pixels are scaled to 119, the transparent value stays 7, so that
#   nothing is transparent.
# Output seen:
#   float32 big-endian deflated: first sample 8.828180325246348e-44 instead of 0.5
#   RGB 16 bits, planes: second pixel (52, 18, 120) instead of (18, 52, 86)
#   grey 16 bits big-endian, values 255 and 256, resized: 4736 to 61310
#   grey PNG, 4 bits, all transparent: alpha 255 instead of 0
# Exits with 1 if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6 tifffile==2026.3.3
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct
import sys
import zlib

import numpy as np
import tifffile
from PIL import Image


def written(samples, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, samples, byteorder=">", **options)
    file.seek(0)
    assert (tifffile.imread(file).squeeze() == samples.squeeze()).all()
    file.seek(0)
    return Image.open(file)


light = written(np.full((8, 8), 0.5, np.float32), compression="zlib").getpixel((0, 0))
print(f"float32 big-endian deflated: first sample {light} instead of 0.5")

planes = np.stack([np.full((8, 8), value, np.uint16) for value in (0x1234, 0x3412, 0x5678)])
pixel = written(planes, photometric="rgb", planarconfig="separate").getpixel((1, 0))
print(f"RGB 16 bits, planes: second pixel {pixel} instead of {(0x12, 0x34, 0x56)}")

two = np.where(np.arange(32 * 32).reshape(32, 32) % 2, np.uint16(255), np.uint16(256))
small = np.asarray(written(two).resize((9, 9), Image.Resampling.BILINEAR))
print(f"grey 16 bits big-endian, values 255 and 256, resized: {small.min()} to {small.max()}")


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


head = struct.pack(">IIBBBBB", 8, 8, 4, 0, 0, 0, 0)
rows = zlib.compress((b"\0" + b"\x77" * 4) * 8)
chunks = (b"IHDR", head), (b"tRNS", struct.pack(">H", 7)), (b"IDAT", rows), (b"IEND", b"")
png = Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)))
alpha = png.convert("RGBA").getpixel((0, 0))[3]
print(f"grey PNG, 4 bits, all transparent: alpha {alpha} instead of 0")

are_wrong = light != 0.5, pixel != (0x12, 0x34, 0x56), small.max() > 256, alpha != 0
sys.exit(not all(are_wrong))
PYTHON
