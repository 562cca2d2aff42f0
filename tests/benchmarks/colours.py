"""Measure what colour profiles cost, and what they change.

    python tests/benchmarks/colours.py --images FOLDER [--model BUNDLE]

Takes sRGB posters and stores each as JPEG without a profile and with several profiles. Decodes all forms in turn.
Prints for each form the CPU milliseconds, the difference from the pixels in sRGB, and the share of posters that get
other labels. A printing press cannot show all colours of sRGB. So its form is compared with its own colours, converted
back to sRGB at full size. Takes about two minutes for 200 posters.
"""

import argparse
import io
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pyvips
from colour_profiles import BLACK_TO_BLACK, RELATIVE, SRGB, in_profile, rgb_profile
from PIL import Image, ImageCms

from genretag.images.decoding import decode
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.model.engines import open_engine
from genretag.storage import Storage

QUALITY = 95
IN_SRGB = "CMYK, converted to sRGB"


def jpeg(image: Image.Image, profile: bytes | None = None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, icc_profile=profile)
    return buffer.getvalue()


def forms(image: Image.Image) -> dict[str, bytes]:
    """Return the poster as a file in every form, by name of the form."""
    press, adobe, p3 = bytes(pyvips.Image.profile_load("cmyk")), rgb_profile("Adobe RGB"), rgb_profile("Display P3")
    inks = in_profile(image, press, "CMYK")
    press_profile = ImageCms.ImageCmsProfile(io.BytesIO(press))
    return {
        "no profile": jpeg(image),
        "sRGB profile": jpeg(image, SRGB.tobytes()),
        "Adobe RGB": jpeg(in_profile(image, adobe), adobe),
        "Adobe RGB, profile left out": jpeg(in_profile(image, adobe)),
        "Display P3": jpeg(in_profile(image, p3), p3),
        "Display P3, profile left out": jpeg(in_profile(image, p3)),
        IN_SRGB: jpeg(ImageCms.profileToProfile(inks, press_profile, SRGB, RELATIVE, "RGB", flags=BLACK_TO_BLACK)),
        "CMYK": jpeg(inks, press),
        "CMYK, profile left out": jpeg(inks),
        "saved again": jpeg(Image.open(io.BytesIO(jpeg(image)))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model", default=str(DEFAULT_BUNDLE))
    parser.add_argument("--posters", type=int, default=200)
    parser.add_argument("--width", type=int, help="scale posters to this width first")
    options = parser.parse_args()

    bundle = load_bundle(options.model, Storage())
    files = sorted(options.images.iterdir())
    chosen = np.random.default_rng(0).permutation(len(files))[: options.posters]
    milliseconds: dict[str, list[float]] = {}
    pixels: dict[str, list[np.ndarray]] = {}
    for number in chosen:
        image = Image.open(files[number]).convert("RGB")
        if options.width:
            image = image.resize((options.width, image.height * options.width // image.width), Image.Resampling.LANCZOS)
        for name, data in forms(image).items():
            decode(data, bundle.rule)  # so that the profile is read before the timing
            started = time.thread_time()
            decoded = decode(data, bundle.rule)
            milliseconds.setdefault(name, []).append(1000 * (time.thread_time() - started))
            pixels.setdefault(name, []).append(decoded.pixels)
    engine, profile = open_engine("openvino", bundle, batch_size=8, threads=2), bundle.profile()
    labels = {name: profile.predicted(engine.predict(np.stack(images))) for name, images in pixels.items()}
    for name, images in pixels.items():
        same = IN_SRGB if "CMYK" in name else "no profile"
        difference = np.abs(np.stack(images).astype(int) - np.stack(pixels[same])).mean()
        others = (labels[name] != labels[same]).any(axis=1).mean()
        median = np.median(milliseconds[name])
        print(f"{name:30} {median:6.2f} ms  difference {difference:5.2f}  other labels {others:5.1%}")


if __name__ == "__main__":
    main()
