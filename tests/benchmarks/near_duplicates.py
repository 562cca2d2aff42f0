"""Do embeddings find the same picture in another size, crop or quality, and how many other pairs come with it?

    python tests/benchmarks/near_duplicates.py --images posters [--model BUNDLE] [--changed 300]

The script tags all images of a folder with embeddings, and with them changed copies of some. For each similarity, it
prints which share of the copies is paired with its original, and how many pairs are neither copies nor byte-identical
images. It also prints how many byte-identical pairs are among the most similar pairs.
"""

import argparse
import hashlib
import itertools
import random
import tempfile
from collections import defaultdict
from pathlib import Path

from PIL import Image

from genretag.commands.duplicates import duplicates
from genretag.commands.tag import tag
from genretag.runtime.session import Session
from genretag.scoring.settings import TagSettings

LEASTS = (0.75, 0.80, 0.825, 0.85, 0.875, 0.90, 0.925, 0.95)


def changed(image: Image.Image) -> dict[str, tuple[Image.Image, int]]:
    """Return changed copies of a picture by kind of change, each with the JPEG quality to save it with."""
    width, height = image.size
    crop = width // 20, height // 20, width - width // 20, height - height // 20
    return {
        "half the size": (image.resize((width // 2, height // 2), Image.Resampling.LANCZOS), 90),
        "a tenth cut off": (image.crop(crop), 90),
        "JPEG of quality 40": (image, 40),
        "grey": (image.convert("L"), 90),
    }


def write_copies(files: list[Path], folder: Path) -> dict[str, tuple[str, str]]:
    """Write changed copies of the files. Return the original and the kind of change by the copy's path."""
    copies = {}
    for number, file in enumerate(files):
        with Image.open(file) as image:
            for kind, (picture, quality) in changed(image.convert("RGB")).items():
                place = folder / f"{number}-{kind.replace(' ', '-')}.jpg"
                picture.save(place, quality=quality)
                copies[str(place)] = str(file), kind
    return copies


def identical(files: list[Path]) -> set[frozenset[str]]:
    """Return all pairs of files with the same bytes."""
    by_hash = defaultdict(list)
    for file in files:
        by_hash[hashlib.sha256(file.read_bytes()).digest()].append(str(file))
    return {frozenset(pair) for same in by_hash.values() for pair in itertools.combinations(same, 2)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--images", type=Path, required=True)
    arguments.add_argument("--model")
    arguments.add_argument("--changed", type=int, default=300)
    chosen = arguments.parse_args()
    files = sorted(file for file in chosen.images.resolve().rglob("*.jpg"))
    twins = identical(files)
    with tempfile.TemporaryDirectory() as place:
        folder, output = Path(place) / "copies", Path(place) / "out"
        folder.mkdir()
        copies = write_copies(random.Random(0).sample(files, chosen.changed), folder)
        for images in (chosen.images, folder):
            tag(str(images), str(output), TagSettings(embeddings=True, report=False), Session(quiet=True), chosen.model)
        pairs = duplicates(str(output), Session(quiet=True), LEASTS[0])
    kinds = dict.fromkeys(kind for _, kind in copies.values())
    print(f"{len(files)} images, {len(copies)} changed copies of {chosen.changed}, {len(twins)} byte-identical pairs")
    print("| similarity | " + " | ".join(kinds) + " | byte-identical pairs | other pairs of originals |")
    for least in LEASTS:
        found = [frozenset((pair.first, pair.second)) for pair in pairs if pair.similarity >= least]
        paired = set(found)
        share = {
            kind: sum(frozenset((copy, original)) in paired for copy, (original, k) in copies.items() if k == kind)
            for kind in kinds
        }
        others = sum(not (pair & copies.keys()) and pair not in twins for pair in found)
        shares = " | ".join(f"{count / chosen.changed:.1%}" for count in share.values())
        print(f"| {least} | {shares} | {len(twins & paired)} of {len(twins)} | {others} |")
    ranked = [frozenset((p.first, p.second)) for p in pairs if not ({p.first, p.second} & copies.keys())]
    last = max((ranked.index(pair) + 1 for pair in twins if pair in ranked), default=0)
    print(f"the {len(twins)} byte-identical pairs are among the {last} most similar pairs of originals")


if __name__ == "__main__":
    main()
