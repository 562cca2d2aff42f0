"""The README and the pages of the docs site, and what stands in them: blocks, tables, links, sentences."""

import re
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
SITE = REPOSITORY / "zensical.toml"


def pages():
    """The README, then the pages in the order of the site's menu."""
    menu = tomllib.loads(SITE.read_text())["project"]["nav"]
    return [README, *(DOCS / file for entry in menu for file in entry.values())]


def blocks(language, files=None):
    """The code blocks of a language; a block that several pages have comes once."""
    found = [
        block
        for file in files or pages()
        for block in re.findall(rf"^```{language}\n(.*?)^```", file.read_text(), flags=re.DOTALL | re.MULTILINE)
    ]
    return list(dict.fromkeys(found))


def commands(files=None):
    """The lines after a prompt, in order; a command that several pages have comes once."""
    lines = (line for block in blocks("console", files) for line in block.splitlines())
    return list(dict.fromkeys(line.removeprefix("$ ") for line in lines if line[:2] == "$ "))


def section(file, heading):
    """The lines below a heading, as far as the next heading of any depth."""
    text = file.read_text()
    return re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, flags=re.DOTALL | re.MULTILINE)[1]


def first_cells(text):
    """The code words in the first cell of each table row: the names that the row is about."""
    rows = (line for line in text.splitlines() if line.startswith("|"))
    return [a or b for row in rows for a, b in re.findall(r"`([^`]+)`|<code>(.+?)</code>", row.split("|")[1])]


def prose(file):
    """The text of a page without its code blocks."""
    return re.sub(r"^```.*?^```", "\n", file.read_text(), flags=re.DOTALL | re.MULTILINE)


def links(file):
    """The targets of links and pictures, without those to other hosts."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(file))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(file):
    """The anchors that the headings of a page make."""
    headings = re.findall(r"^#+ (.+)$", prose(file), flags=re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def sentences(file):
    """The sentences of a page, each list item and table cell apart; code and the targets of links do not count."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", prose(file))
    text = re.sub(r"`[^`\n]*`", "code", text)
    pieces = re.split(r"\n\s*\n|\n(?=#)|\n\s*(?:[-*]|\d+\.) |\||(?<=[.!?:])\s", text)
    return [" ".join(piece.split()) for piece in pieces if piece.strip()]
