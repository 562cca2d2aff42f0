"""HTML pages: turn values into one self-contained page, place numbers on SVG canvases, and write the page.

A failed page never fails the job that it describes.

Object keys, messages and label names come from outside, so a page does three things against injection. Jinja escapes
all of them everywhere. Characters that do not print, or that change the direction of text, become spaces. The content
security policy names the hashes of the page's style and script. So a browser runs nothing else, even if some text were
not escaped.

The macros in `templates/charts.html` draw the charts. Charts are small marks in the rows of a table, or panels next to
each other. The text of a chart keeps its size on a phone, and the colours follow light and dark mode.
"""

import base64
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import ceil, floor, isfinite, log10
from typing import TYPE_CHECKING, Any

import numpy as np

from genretag.errors import UsageError
from genretag.storage import Storage, StorageError, resolve

if TYPE_CHECKING:
    from jinja2 import Environment


logger = logging.getLogger(__name__)


def write_page(location: str, page: bytes, storage: Storage) -> str:
    """Write `page`, the bytes of an HTML page, to a local path or an object of a bucket. Return its full location.

    Raises `UsageError` if the page cannot be written.
    """
    place = resolve(location)
    try:
        storage.put(place, page)
    except StorageError as error:
        raise UsageError(f"cannot write the page to {place}: {error}") from error
    return place


def draw_if_possible(what: str, draw: Callable[[], str]) -> str | None:
    """Call `draw`, which draws a page, and return its result. If `draw` raises any exception, return None.

    After an exception, log a warning that names the page by `what`. The job has succeeded, so it must not end with an
    error.
    """
    try:
        return draw()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a page, the work is done
        logger.warning("%s could not be drawn (%s: %s); the job itself ended well", what, type(error).__name__, error)
        return None


@dataclass(frozen=True)
class Axis:
    """Scale of a chart: values from `low` to `high` on `length` units of the canvas. If `up`, values grow upwards."""

    low: float
    high: float
    length: float
    up: bool = False

    def place(self, value: float) -> float:
        """Return the place of a value on the canvas. A value outside the range goes to the nearer end."""
        share = (min(max(value, self.low), self.high) - self.low) / ((self.high - self.low) or 1.0)
        return round(self.length * (1 - share if self.up else share), 2)

    def ticks(self, about: int = 3) -> list[tuple[float, str]]:
        """Return the axis ticks at round values, as pairs of place and text. `about` is the rough number of ticks."""
        step = _round_step((self.high - self.low) / max(about, 1))
        digits = max(0, -floor(log10(step))) if step < 1 else 0
        first = ceil(self.low / step - 1e-9)
        values = [number * step for number in range(first, floor(self.high / step + 1e-9) + 1)]
        return [(self.place(value), f"{value:.{digits}f}") for value in values]


UNIT = Axis(0.0, 1.0, 100.0)
UNIT_UP = Axis(0.0, 1.0, 100.0, up=True)


@dataclass(frozen=True)
class Curve:
    """A line for a chart panel, with the text at its end and the ticks of both axes, as pairs of place and text."""

    points: str  # of an SVG polyline
    end: tuple[float, float]
    text: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def curve(x: Sequence[float], y: Sequence[float], width: float, height: float, digits: int = 3) -> Curve:
    """Return a line through the finite points of a series, scaled to a panel of `width` x `height` units.

    The axes span the series' own range. The text at the end of the line is the last value with `digits` decimals. If no
    point is finite, the line is empty and the text is a dash.
    """
    known = [(a, b) for a, b in zip(x, y, strict=True) if isfinite(b)]
    if not known:
        return Curve("", (0, 0), "–", [], [])
    low, high = min(b for _, b in known), max(b for _, b in known)
    margin = (high - low) * 0.12 or abs(high) * 0.1 or 0.1
    across = Axis(known[0][0], known[-1][0], width)
    down = Axis(low - margin, high + margin, height, up=True)
    places = [(across.place(a), down.place(b)) for a, b in known]
    return Curve(polyline(places), places[-1], f"{known[-1][1]:.{digits}f}", across.ticks(4), down.ticks(5))


def polyline(places: Sequence[tuple[float, float]]) -> str:
    """Return places (x, y) as the text of the `points` attribute of an SVG polyline."""
    return " ".join(f"{x:g},{y:g}" for x, y in places)


def columns(counts: Sequence[int], width: float, height: float) -> list[tuple[float, float, float]]:
    """Return the columns of a histogram, one for each count, as (x, y, height of the column).

    `width` and `height` are the size of the canvas. Column heights follow the square root of the counts, so that small
    counts stay visible next to large ones.
    """
    most = max([*counts, 1])
    step = width / max(len(counts), 1)
    heights = [round(height * (count / most) ** 0.5, 2) for count in counts]
    return [(round(i * step, 2), round(height - tall, 2), tall) for i, tall in enumerate(heights)]


def thinned(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `most` points of a curve, evenly spread along x, with both ends. The result is sorted by x.

    If there are at most `most` points, return them unchanged. `x` and `y` are float (n,).
    """
    if len(x) <= most:
        return x, y
    wanted = np.linspace(x.min(), x.max(), most)
    order = np.lexsort((-y, x))  # of points with the same x, the highest comes first
    at = order[np.unique(np.clip(np.searchsorted(x[order], wanted), 0, len(x) - 1))]
    return x[at], y[at]


def _round_step(rough: float) -> float:
    """Return the smallest 1, 2 or 5 times a power of ten that is at least `rough`.

    If `rough` is not a positive finite number, return 1.
    """
    if not (isfinite(rough) and rough > 0):
        return 1.0
    power = 10.0 ** floor(log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


TEMPLATES = "templates"


def render(
    template: str, *, styles: tuple[str, ...] = ("page.css",), script: str | None = None, **values: Any
) -> bytes:
    """Fill in a template, and return the HTML page in UTF-8.

    `template`, `styles` and `script` are names of files in the folder `templates`. If `script` is None, the page has no
    script. `values` are the template's variables.
    """
    from markupsafe import Markup

    css = _text(*styles)
    code = _text(script) if script else None
    page = _environment().get_template(template)
    html = page.render(
        css=Markup(css),  # noqa: S704 - our own file
        script=Markup(code) if code else None,  # noqa: S704 - our own file
        policy=content_policy(css, code),
        **values,
    )
    return html.encode("utf-8", errors="backslashreplace")  # a file name may hold bytes that are not text


def content_policy(css: str, script: str | None) -> str:
    """Return a content security policy that allows one style, one script (None: no script), and images within the page.

    The page can load nothing else, and cannot send a form.
    """
    scripts = _hash(script) if script else "'none'"
    return (
        f"default-src 'none'; style-src {_hash(css)}; script-src {scripts}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def json_text(value: Any) -> str:
    """Return a value as JSON that cannot end the `<script>` block around it. Raises `ValueError` for NaN."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def printable(text: str) -> str:
    """Return the text with a space for each character that does not print or changes the direction of text."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


@cache
def _environment() -> "Environment":
    """Return the Jinja environment of all pages: it escapes all values, and has filters such as `percent`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("genretag.reports", TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda v: printable(v) if isinstance(v, str) and not isinstance(v, Markup) else v,
    )
    environment.filters["json"] = lambda value: Markup(json_text(value))  # noqa: S704 - no < > & left in it
    environment.filters |= {
        "number": number,
        "short": short,
        "percent": percent,
        "seconds": seconds,
        "size": size,
        "name": name,
    }
    return environment


def number(value: float | None) -> str:
    """Return a number rounded to a whole number, with thousands separators: 12345 -> 12,345. None gives –."""
    return "–" if value is None else f"{value:,.0f}"


def short(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` decimals, no zero before the point: .31234 -> .312. None and NaN give –."""
    if value is None or value != value:
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def percent(value: float | None, digits: int = 0) -> str:
    """Return a share as percent with `digits` decimals: .31234 -> 31 %. None and NaN give –."""
    return "–" if value is None or value != value else f"{100 * value:.{digits}f} %"


def seconds(value: float | None) -> str:
    """Return a number of seconds as text: 75.2 -> 1 min 15 s, 3700 -> 1 h 1 min. None gives –."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(value: float | None) -> str:
    """Return a number of bytes with a decimal unit: 1234567 -> 1.2 MB. None gives –."""
    if value is None:
        return "–"
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "bytes" or value >= 100 else f"{value:.1f} {units[0]}"


def name(location: str) -> str:
    """Return the last part of a path, so that a shared page shows nobody's folders: /home/me/models/small/ -> small."""
    return location.rstrip("/").rpartition("/")[2]


def _text(*names: str) -> str:
    """Return the joined content of the files `names` in the folder `templates`."""
    folder = files("genretag.reports") / TEMPLATES
    return "".join((folder / name).read_text("utf-8") for name in names)


def _hash(text: str) -> str:
    """Return the source expression that allows `text` in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
