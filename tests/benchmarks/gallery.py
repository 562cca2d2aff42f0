"""Measure how long a gallery of thousands of posters takes to make and to open in Chromium, and how it scrolls.

    python tests/benchmarks/gallery.py --posters 5000

Draws posters, writes predictions with random probabilities of 23 labels, and makes the page with `genretag gallery`.
Opens the page three times and scrolls through all of it. A frame is "blank" if a row of the window has no cards, and
"undrawn" if a picture in the window is not decoded yet. The null is an empty page in the same browser. Prints JSON.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))
from tagged_output import random_probabilities, write_tagged

from genretag.demo.posters import draw_poster
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.reports.gallery import gallery
from genretag.runtime.session import Session
from genretag.settings import GallerySettings
from genretag.storage import Storage

ROUNDS = 3
OPENED = """() => new Promise((done) => {
  const look = () => {
    const seen = [...document.querySelectorAll('#grid img')].filter((i) => i.getBoundingClientRect().top < innerHeight);
    if (seen.length && seen.every((i) => i.src && i.complete && i.naturalWidth)) done(performance.now());
    else requestAnimationFrame(look);
  };
  look();
})"""
SCROLLED = """(perFrame) => new Promise((done) => {
  const frames = [], long = [], grid = document.getElementById('grid');
  let blank = 0, undrawn = 0, last = performance.now();
  new PerformanceObserver((list) => long.push(...list.getEntries().map((e) => e.duration))).observe({type: 'longtask'});
  const bar = document.querySelector('.actions').offsetHeight;
  const step = () => {
    const now = performance.now(), all = grid.getBoundingClientRect();
    frames.push(now - last);
    last = now;
    const cards = [...grid.children].map((card) => [card.getBoundingClientRect(), card.querySelector('img')]);
    const top = Math.min(...cards.map(([r]) => r.top)), bottom = Math.max(...cards.map(([r]) => r.bottom));
    if ((all.top < bar && top > bar) || (all.bottom > innerHeight && bottom < innerHeight)) blank++;
    if (cards.some(([r, image]) => r.bottom > 0 && r.top < innerHeight && !image.complete)) undrawn++;
    if (scrollY >= document.documentElement.scrollHeight - innerHeight - 2)
      done({frames: frames.slice(2), blank, undrawn, long});
    else { scrollBy(0, perFrame); requestAnimationFrame(step); }
  };
  requestAnimationFrame(step);
})"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--posters", type=int, default=5_000)
    parser.add_argument("--per-frame", type=int, default=80, help="CSS pixels to scroll in each frame")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        found = {"posters": asked.posters, **make(folder, asked.posters)}
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        (folder / "empty.html").write_text("<!doctype html><title>nothing</title>")
        found["null_load_ms"] = [load(browser, folder / "empty.html", "() => performance.now()") for _ in range(ROUNDS)]
        found["opened_ms"] = [load(browser, folder / "page.html", OPENED) for _ in range(ROUNDS)]
        found |= use(browser, folder / "page.html", asked.per_frame)
        print(json.dumps(found, indent=1))


def make(folder: Path, posters: int) -> dict[str, float]:
    """Draw posters, write predictions, and make the page.

    Return the seconds that the page took (`made_s`) and its size (`bytes`).
    """
    (folder / "posters").mkdir()
    with ProcessPoolExecutor() as processes:
        paths = list(processes.map(_draw, [folder] * posters, range(posters), chunksize=50))
    labels = load_bundle(str(DEFAULT_BUNDLE), Storage()).labels
    write_tagged(folder / "out", random_probabilities(paths, labels), labels=labels)
    started = time.perf_counter()
    gallery(str(folder / "out"), GallerySettings(limit=posters, html=str(folder / "page.html")), Session(quiet=True))
    return {"made_s": round(time.perf_counter() - started, 1), "bytes": (folder / "page.html").stat().st_size}


def _draw(folder: Path, number: int) -> Path:
    path = folder / "posters" / f"{number:06d}.jpg"
    path.write_bytes(draw_poster(number, width=182, height=268))
    return path


def load(browser: Browser, page: Path, until: str) -> float:
    """Return the milliseconds from the start of the navigation until the posters in the first window are decoded."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.goto(page.as_uri(), wait_until="commit")
    taken = tab.evaluate(until)
    context.close()
    return round(taken)


def use(browser: Browser, page: Path, per_frame: int) -> dict[str, object]:
    """Scroll through all posters, filter and sort. Return figures of the frames, and the times."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.evaluate(OPENED)
    scrolled = tab.evaluate(SCROLLED, per_frame)
    frames = sorted(scrolled["frames"])
    change = """() => { const t = performance.now(), e = document.getElementById('%s'); e.value = '%s';
        e.dispatchEvent(new Event('input', {bubbles: true})); return performance.now() - t; }"""
    found = {
        "frames": len(frames),
        "frame_ms": {
            "median": round(statistics.median(frames), 1),
            "p95": round(frames[int(0.95 * len(frames))], 1),
            "most": round(frames[-1], 1),
        },
        "blank": scrolled["blank"],
        "undrawn": scrolled["undrawn"],
        "long_tasks_ms": [round(duration) for duration in scrolled["long"]],
        "filter_ms": round(tab.evaluate(change % ("genre", "Comedy")), 1),
        "sort_ms": round(tab.evaluate(change % ("sort", "certain")), 1),
        "cards": tab.locator("#grid li").count(),
    }
    context.close()
    return found


if __name__ == "__main__":
    main()
