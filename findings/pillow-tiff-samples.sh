#!/usr/bin/env bash
# Pillow 13.0.0 reads some valid TIFF and PNG files wrongly, without an error or a warning. The pixels differ from those
# of tifffile 2026.3.3 (TIFF) or from the PNG specification:
# - TIFF, float32, big-endian, deflated: Pillow reads the bytes of each sample in the wrong order. Uncompressed files
#   are right.
# - TIFF, RGB of 16 bits in separate planes, uncompressed: Pillow takes single bytes for samples. Deflated files are
#   right.
# - TIFF, 16-bit grey, big-endian: Pillow reads the samples correctly, but resize() turns them into noise.
# - PNG, 4-bit grey, with the transparent value 7 (tRNS): Pillow scales the pixels to 119 and leaves the transparent
#   value at 7. So no pixel is transparent.
#
# Output seen:
#   float32 big-endian deflated: first sample 8.828180325246348e-44 instead of 0.5
#   RGB 16 bits, planes: second pixel (52, 18, 120) instead of (18, 52, 86)
#   grey 16 bits big-endian, values 255 and 256, resized: 4736 to 61310
#   grey PNG, 4 bits, all transparent: alpha 255 instead of 0
#
# The script ends with exit code 1 if one of these errors is gone.
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
