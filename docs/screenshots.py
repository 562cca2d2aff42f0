"""Pictures of the three pages for the README, of drawn posters only: docs/model-card.webp and the like.

    .venv/bin/python docs/screenshots.py [FOLDER]

Draws posters, trains a small model on them, tags two nights, and takes pictures of the pages in headless Chromium, in
the light and on a phone in the dark. FOLDER keeps the pages and what they were made of; without it nothing is
kept. Takes some minutes on two CPUs.
"""

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import Browser, sync_playwright

from genretag.demo.posters import draw_posters, labels_csv

HERE = Path(__file__).parent
POSTERS, FIRST_NIGHT, BROKEN = 1_600, 1_200, 0.02
TRAINING = {"workers": 1, "cpus-per-worker": 2, "height": 96, "width": 64, "epochs": 0, "head-epochs": 4}
# the head alone, on small pictures: a model that errs now and then, for a card that has something to show
SIZE, PHONE = (1180, 860), (390, 860)  # of a window, in CSS pixels
QUALITY = 82


def main() -> None:
    """Makes the pages where they are missing, then the pictures."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary).absolute()
        if not (folder / "gallery.html").exists():
            make_pages(folder)
        with sync_playwright() as playwright:
            path = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=path)
            picture(browser, folder / "model" / "report.html", "model-card")
            picture(browser, next((folder / "genres" / "runs").glob("*/second.html")), "morning-report")
            picture(browser, folder / "gallery.html", "gallery")


def make_pages(folder: Path) -> None:
    """Posters, a model that has learnt from most of them, and two nights that it tagged."""
    posters = list(draw_posters(POSTERS, seed=5, broken_share=BROKEN))
    for number, poster in enumerate(posters):
        night = "first" if number < FIRST_NIGHT else "second"
        file = folder / "posters" / night / Path(poster.key).name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(poster.data)
    (folder / "labels.csv").write_text(labels_csv(p for p in posters if not p.broken))
    settings = [word for name, value in TRAINING.items() for word in (f"--{name}", str(value))]
    genretag("train", "--labels", "labels.csv", "--images", "posters", "--output", "model", *settings, cwd=folder)
    for night, day in (("first", "2026-11-23"), ("second", "2026-11-24")):
        genretag("tag", f"posters/{night}", "genres", "--model", "model", "--date", day, cwd=folder)
    newest = max((folder / "genres" / "runs").glob("*/run.html"))
    shutil.copy(newest, newest.with_name("second.html"))
    genretag("gallery", "genres", "--labels", "labels.csv", "--html", "gallery.html", cwd=folder)


def genretag(*words: str, cwd: Path) -> None:
    """Runs a command as a user would."""
    subprocess.run([sys.executable, "-m", "genretag.cli", *words], check=True, cwd=cwd)


def picture(browser: Browser, page: Path, name: str) -> None:
    """A window in the light, and a phone in the dark beside it."""
    light, dark = (shot(browser, page, *size) for size in ((SIZE, "light"), (PHONE, "dark")))
    gap = 24
    canvas = Image.new("RGB", (light.width + gap + dark.width, light.height), "#8d887f")
    canvas.paste(light, (0, 0))
    canvas.paste(dark, (light.width + gap, 0))
    ImageDraw.Draw(canvas).rectangle((0, 0, canvas.width - 1, canvas.height - 1), outline="#8d887f")
    file = HERE / f"{name}.webp"
    canvas.save(file, "WEBP", quality=QUALITY, method=6)
    print(f"{file}: {file.stat().st_size // 1000} kB")  # noqa: T201


def shot(browser: Browser, page: Path, size: tuple[int, int], scheme: str) -> Image.Image:
    """What a window of this size shows first."""
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
