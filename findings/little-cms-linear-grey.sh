#!/usr/bin/env bash
# Little CMS 2.19 (in Pillow 13.0.0's wheel) converts dark 8-bit greys wrongly from a linear grey profile to sRGB.
#
# Expected: the values 1, 2 and 3 of 255 in linear light are 13, 22 and 28 in sRGB.
#
# Seen: with the default flags, the results are 6, 12 and 19. Dark greys are wrong by up to 10 levels. With the flag
# NOOPTIMIZE, the results are right. An RGB profile with the same curve gives right results with both flags.
#
# Reason: by default, the library samples a grey curve at a few points and interpolates linearly between them. Near
# black, this curve is too steep for that.
#
# Output seen (sRGB values for the linear values 0 to 4):
#   grey, default flags:  [0, 6, 12, 19, 25]
#   grey, NOOPTIMIZE:     [0, 13, 22, 28, 34]
#   RGB, default flags:   [0, 13, 22, 28, 34]
# The script ends with exit code 1 if the output changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct
import sys

from PIL import Image, ImageCms


def xyz(*values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def profile(space, tags):
    at = 132 + 12 * len(tags)
    table, contents = b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(contents), len(content))
        contents += content.ljust(-(-len(content) // 4) * 4, b"\0")
    head = struct.pack(">I4sI4s4s4s", at + len(contents), b"lcms", 0x02400000, b"mntr", space, b"XYZ ")
    head = (head + bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)).ljust(128, b"\0")
    return head + struct.pack(">I", len(tags)) + table + contents


linear = b"curv\0\0\0\0" + struct.pack(">IH", 1, 256)  # gamma 1.0
white = {b"wtpt": xyz(0.9642, 1.0, 0.8249)}
grey = profile(b"GRAY", {**white, b"kTRC": linear})
colorants = {
    b"rXYZ": xyz(0.4361, 0.2225, 0.0139),
    b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
    b"bXYZ": xyz(0.1431, 0.0606, 0.7141),
}
rgb = profile(b"RGB ", {**white, **colorants, b"rTRC": linear, b"gTRC": linear, b"bTRC": linear})


def darkest(content, mode, flags):
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(content)), ImageCms.createProfile("sRGB"), mode, "RGB", 1, flags
    )
    steps = Image.frombytes("L", (5, 1), bytes(range(5))).convert(mode)
    return list(transform.apply(steps).getchannel(0).tobytes())


seen = {
    "grey, default flags: ": darkest(grey, "L", ImageCms.Flags.NONE),
    "grey, NOOPTIMIZE:    ": darkest(grey, "L", ImageCms.Flags.NOOPTIMIZE),
    "RGB, default flags:  ": darkest(rgb, "RGB", ImageCms.Flags.NONE),
}
for name, values in seen.items():
    print(name, values)
sys.exit(list(seen.values()) != [[0, 6, 12, 19, 25], [0, 13, 22, 28, 34], [0, 13, 22, 28, 34]])
PYTHON
