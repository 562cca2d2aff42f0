"""Values -> one self-contained HTML page: escaped, and with a policy that runs nothing but our own script.

Keys, messages and label names come from outside. Jinja escapes all of them, wherever they stand; what does not print
(and could turn text round) becomes a space; and even if markup came through, the page's content security policy allows
only the style and the script whose hashes it names.
"""

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = "templates"


def render(
    template: str, *, styles: tuple[str, ...] = ("page.css",), script: str | None = None, **values: Any
) -> bytes:
    """The page as UTF-8. `styles` and `script` are our own files beside the template; `values` are what it shows."""
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
    return html.encode("utf-8", errors="backslashreplace")  # a file's name may hold bytes that are no text


def content_policy(css: str, script: str | None) -> str:
    """The content security policy of a page with this style and script, and nothing else."""
    scripts = _hash(script) if script else "'none'"
    return (
        f"default-src 'none'; style-src {_hash(css)}; script-src {scripts}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def json_text(value: Any) -> str:
    """JSON that is safe between `<script>` tags of a data block: nothing in it can end the block."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def printable(text: str) -> str:
    """Text without control characters and without those that change its direction."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


@cache
def _environment() -> "Environment":
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
    """12345 -> 12,345."""
    return "–" if value is None else f"{value:,.0f}"


def short(value: float | None, digits: int = 3) -> str:
    """.31234 -> .312, as figures between 0 and 1 are written in the tables; – for what has no value."""
    if value is None or value != value:
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def percent(value: float | None, digits: int = 0) -> str:
    """.31234 -> 31 %."""
    return "–" if value is None or value != value else f"{100 * value:.{digits}f} %"


def seconds(value: float | None) -> str:
    """75.2 -> 1 min 15 s; 3700 -> 1 h 1 min."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(value: float | None) -> str:
    """1234567 -> 1.2 MB."""
    if value is None:
        return "–"
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "bytes" or value >= 100 else f"{value:.1f} {units[0]}"


def name(location: str) -> str:
    """/home/me/models/small/ -> small: a page that is passed on tells nobody's folders."""
    return location.rstrip("/").rpartition("/")[2]


def _text(*names: str) -> str:
    folder = files("genretag.reports") / TEMPLATES
    return "".join((folder / name).read_text("utf-8") for name in names)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
