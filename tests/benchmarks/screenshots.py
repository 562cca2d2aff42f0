"""Take pictures of the three pages for the docs, with drawn posters only: docs/figures/model-card.webp and others.

    python tests/benchmarks/screenshots.py [FOLDER]

Draws posters into a bucket of a new SeaweedFS, trains a small model on them, and tags two nights. Then takes pictures
of the pages in headless Chromium, in light mode, and in dark mode on a phone. FOLDER keeps the pages; without it they
are deleted. Takes some minutes on two CPUs.
"""

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from genretag.demo.posters import draw_posters, labels_csv
from genretag.demo.s3_server import running_s3_server
from genretag.reports.run_facts import run_ids
from genretag.storage import Storage

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
BUCKET = "films"
POSTERS, FIRST_NIGHT, BROKEN = 1_600, 1_200, 0.02
TRAINING = {"workers": 1, "cpus-per-worker": 2, "height": 96, "width": 64, "epochs": 0, "head-epochs": 4}
# trains only the head, on small pictures: a model with some errors makes a more instructive card
PAGES = ("model-card", "morning-report", "gallery")
SIZE, PHONE = (1180, 1000), (390, 1000)  # sizes of the browser window, in CSS pixels
GAP, GREY, QUALITY = 24, "#8d887f", 76


def main() -> None:
    """Make the pages if they are missing, and then the pictures."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary).absolute()
        if not all((folder / f"{name}.html").exists() for name in PAGES):
            with tempfile.TemporaryDirectory() as store, running_s3_server(Path(store)) as server:
                os.environ.update(server.environment())
                server.create_bucket(BUCKET)
                make_pages(folder)
        with sync_playwright() as playwright:
            path = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=path)
            for name in PAGES:
                take_picture(browser, folder / f"{name}.html", FIGURES / f"{name}.webp")


def make_pages(folder: Path) -> None:
    """Draw posters, train a model on most of them, and tag two nights."""
    bucket, storage = f"s3://{BUCKET}", Storage()
    posters = list(draw_posters(POSTERS, seed=5, broken_share=BROKEN))
    for number, poster in enumerate(posters):
        night = "first" if number < FIRST_NIGHT else "second"
        storage.put(f"{bucket}/posters/{night}/{Path(poster.key).name}", poster.data)
    labels = f"{bucket}/labels.csv"
    storage.put(labels, labels_csv(p for p in posters if not p.broken).encode())
    settings = [word for name, value in TRAINING.items() for word in (f"--{name}", str(value))]
    genretag("train", "--labels", labels, "--images", f"{bucket}/posters", "--output", f"{bucket}/model", *settings)
    for night, day in (("first", "2026-11-23"), ("second", "2026-11-24")):
        images = f"{bucket}/posters/{night}"
        genretag("tag", images, f"{bucket}/genres", "--model", f"{bucket}/model", "--date", day)
    folder.mkdir(parents=True, exist_ok=True)
    newest = run_ids(f"{bucket}/genres", storage)[-1]
    for name, place in (("model-card", "model/report.html"), ("morning-report", f"genres/runs/{newest}/run.html")):
        (folder / f"{name}.html").write_bytes(bytes(storage.get(f"{bucket}/{place}").data))
    genretag("gallery", f"{bucket}/genres", "--labels", labels, "--html", str(folder / "gallery.html"))


def genretag(*words: str) -> None:
    """Run a `genretag` command as a user would."""
    subprocess.run([sys.executable, "-m", "genretag.cli", *words], check=True)


def take_picture(browser: Browser, page: Path, file: Path) -> None:
    """Take a picture of a page in light mode, with a phone in dark mode next to it."""
    light, dark = shot(browser, page, SIZE, "light"), shot(browser, page, PHONE, "dark")
    canvas = Image.new("RGB", (light.width + GAP + dark.width, light.height), GREY)
    canvas.paste(light, (0, 0))
    canvas.paste(dark, (light.width + GAP, 0))
    canvas.save(file, "WEBP", quality=QUALITY, method=6)
    print(f"{file.name}: {file.stat().st_size // 1000} kB")


def shot(browser: Browser, page: Path, size: tuple[int, int], scheme: str) -> Image.Image:
    """Return a picture of the part of the page that a window of this size shows first."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_function("[...document.images].every((image) => image.complete)")
    taken = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
    context.close()
    return taken


if __name__ == "__main__":
    main()
