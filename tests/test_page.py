"""Pages escape all foreign text, and their policy allows only their own style and script."""

import base64
import hashlib
import json
import re

import pytest

from genretag.reports.gallery import SelectedPosters
from genretag.reports.page import json_text, number, percent, render, seconds, short, size
from genretag.reports.tagged_posters import Model

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u202e'\"&"


def a_gallery(**values):
    picked = SelectedPosters(Model("m", ("a",), (0.5,), "balanced"), [], 0)
    usual = {"facts": {"labels": ["a"]}, "blocks": [], "picked": picked}
    shown = usual | {"output": "", "chosen": [], "has_truth": False, "has_masks": False} | values
    return render("gallery.html", styles=("page.css", "gallery.css"), script="gallery.js", **shown).decode()


def test_foreign_text_is_escaped_and_cannot_reverse_the_direction_of_text():
    html = a_gallery(output=HOSTILE)

    assert "<img src=x" not in html
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in html
    assert "\u202e" not in html


def test_json_text_cannot_end_its_script_block():
    text = json_text({"key": HOSTILE})

    assert not set(text) & set("<>&\u202e")
    assert json.loads(text) == {"key": HOSTILE}


def test_a_name_that_is_not_utf8_does_not_break_a_page():
    assert "<code>bad </code>" in a_gallery(output="bad\udcff")


def test_the_policy_allows_only_the_style_and_the_script_of_the_page():
    html = a_gallery()

    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1].replace("&#39;", "'")
    style, script = re.search(r"<style>(.*?)</style>", html, re.S)[1], re.findall(r"<script>(.*?)</script>", html, re.S)
    assert len(script) == 1
    for kind, text in (("style-src", style), ("script-src", script[0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not re.search(r"<[^>]+\s(on\w+|style)\s*=", html), "no inline handlers, no inline style"


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (number(12345), "12,345"),
        (short(0.31234), ".312"),
        (short(1.0), "1.000"),
        (short(float("nan")), "–"),
        (percent(0.31234, 1), "31.2 %"),
        (seconds(0.123), "0.1 s"),
        (seconds(75.2), "1 min 15 s"),
        (seconds(3660), "1 h 1 min"),
        (size(999), "999 bytes"),
        (size(1_234_567), "1.2 MB"),
    ],
)
def test_numbers_are_written_for_people(made, text):
    assert made == text
