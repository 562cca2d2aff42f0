"""Read the README and the pages of the docs site: their code blocks, commands, tables, links and sentences."""

import re
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
SITE = REPOSITORY / "zensical.toml"


def pages():
    """Return the README, then the pages of the docs in the order of the site's menu."""
    menu = tomllib.loads(SITE.read_text())["project"]["nav"]
    return [README, *(DOCS / file for entry in menu for file in entry.values())]


def blocks(language, files=None):
    """Return the code blocks in `language`, without repetitions. If `files` is None, search all pages."""
    found = [
        block
        for file in files or pages()
        for block in re.findall(rf"^```{language}\n(.*?)^```", file.read_text(), flags=re.DOTALL | re.MULTILINE)
    ]
    return list(dict.fromkeys(found))


def commands(files=None):
    """Return the commands after a `$ ` prompt, in order, without repetitions. If `files` is None, search all pages."""
    lines = (line for block in blocks("console", files) for line in block.splitlines())
    return list(dict.fromkeys(line.removeprefix("$ ") for line in lines if line[:2] == "$ "))


def section(file, heading):
    """Return the text below a heading, up to the next heading of any level."""
    text = file.read_text()
    return re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, flags=re.DOTALL | re.MULTILINE)[1]


def first_cells(text):
    """Return the code words in the first cell of each table row. They are the names that the row describes."""
    rows = (line for line in text.splitlines() if line.startswith("|"))
    return [a or b for row in rows for a, b in re.findall(r"`([^`]+)`|<code>(.+?)</code>", row.split("|")[1])]


def prose(file):
    """Return the text of a page without its code blocks."""
    return re.sub(r"^```.*?^```", "\n", file.read_text(), flags=re.DOTALL | re.MULTILINE)


def links(file):
    """Return the targets of links and pictures in a page, except URLs."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(file))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(file):
    """Return the anchors of a page's headings, such as `exit-codes`."""
    headings = re.findall(r"^#+ (.+)$", prose(file), flags=re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def sentences(file):
    """Return the sentences of a page. Each list item and each table cell counts as a sentence.

    Code blocks and link targets are left out. Inline code is replaced by the word "code".
    """
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", prose(file))
    text = re.sub(r"`[^`\n]*`", "code", text)
    pieces = re.split(r"\n\s*\n|\n(?=#)|\n\s*(?:[-*]|\d+\.) |\||(?<=[.!?:])\s", text)
    return [" ".join(piece.split()) for piece in pieces if piece.strip()]
