"""Compare the decoder of genretag with plain Pillow and with simplejpeg (libjpeg-turbo): CPU ms for the same pictures.

    python tests/benchmarks/decoders.py [--images FOLDER] [--posters 400]

All decode JPEG at a reduced scale that is never below the target, and resize with the same filter. `genretag` is our
complete decoder with its checks. simplejpeg cannot resize, so Pillow resizes for it. Rounds are interleaved, and
medians are printed, for drawn posters of three sizes and for those of a folder. Needs the extra `bench`.
"""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import simplejpeg
from PIL import Image

from genretag.demo.posters import draw_poster
from genretag.images import ImageRule
from genretag.images.decoding import decode

RULE = ImageRule(288, 192)
SIZES = ((300, 450), (1000, 1500), (2000, 3000))
ROUNDS = 5


def genretag(data: bytes) -> np.ndarray:
    return decode(data, RULE).pixels


def pillow(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data), formats=("JPEG",))
    image.draft(None, (RULE.width, RULE.height))
    return np.asarray(image.convert("RGB").resize((RULE.width, RULE.height), Image.Resampling.BILINEAR))


def simplejpeg_(data: bytes) -> np.ndarray:
    pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=RULE.height, min_width=RULE.width, min_factor=1)
    return np.asarray(Image.fromarray(pixels).resize((RULE.width, RULE.height), Image.Resampling.BILINEAR))


DECODERS: tuple[Callable[[bytes], np.ndarray], ...] = (genretag, pillow, simplejpeg_)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of JPEG posters")
    parser.add_argument("--posters", type=int, default=400)
    options = parser.parse_args()
    sets = {f"drawn, {w} x {h}": [draw_poster(seed, (), w, h) for seed in range(20)] for w, h in SIZES}
    if options.images:
        files = sorted(options.images.rglob("*.jpg"))[: options.posters]
        sets[f"{len(files)} files"] = [file.read_bytes() for file in files]
    print("| posters | genretag, ms | Pillow alone | simplejpeg, Pillow's resize | most grey levels apart, mean |")
    print("|---|---|---|---|---|")
    for name, posters in sets.items():
        times = {decoder: [] for decoder in DECODERS}
        for _ in range(ROUNDS):
            for decoder in DECODERS:
                started = time.process_time()
                for data in posters:
                    decoder(data)
                times[decoder].append(1000 * (time.process_time() - started) / len(posters))
        far = max(np.abs(genretag(data).astype(int) - simplejpeg_(data)).mean() for data in posters)
        print(f"| {name} | " + " | ".join(f"{median(times[decoder]):.2f}" for decoder in DECODERS) + f" | {far:.2f} |")


if __name__ == "__main__":
    main()
