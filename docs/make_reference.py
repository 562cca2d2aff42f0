"""Write docs/reference.md (all commands, arguments and settings) and docs/modules.md (all files of `genretag/`).

    python docs/make_reference.py

`make docs` runs this script. tests/test_reference.py fails if one of the two pages is out of date.
"""

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from inspect import Parameter as Kind
from inspect import cleandoc, getdoc
from pathlib import Path
from typing import Any, get_args, get_origin

from cyclopts import App
from cyclopts.argument import Argument

from genretag.cli import PREFIX, app

FILE = Path(__file__).with_name("reference.md")
MODULES_FILE = Path(__file__).with_name("modules.md")
PACKAGE = Path(__file__).parents[1] / "genretag"
MODULES = """\
# Modules

`make docs` writes this page from the first sentence of each file in `genretag/`.
[Architecture](architecture.md) says which folder may import which.
"""
SHARED_BY = 4  # a settings class that at least this number of commands has gets one shared section
INTRODUCTION = """\
# Command reference

`make docs` writes this page from the program. `genretag COMMAND --help` prints the same options.

Set an option in one of three places. A flag comes before an environment variable, and a variable before a file:

1. a flag: `genretag tag ... --batch-size 64`;
2. an environment variable: `GENRETAG_TAG_BATCH_SIZE=64`;
3. a key in the command's table of a TOML file, which `--config FILE` names: `batch_size = 64` below `[tag]`.

An unknown variable or key is an error that names the nearest known one. `--config` itself is a flag only.
In a variable, write `true` or `false` for a switch. [Settings](tagging.md#settings) has an example of a file.
"""
TABLE = "| option | default | what it does | variable, and key in the file |\n|---|---|---|---|"


def reference() -> str:
    """Return the text of docs/reference.md."""
    shared = _shared_settings()
    parts = [INTRODUCTION, _overview()]
    parts += [_command(name, shared) for name in commands()]
    parts += [_shared_section(settings, using) for settings, using in shared.items()]
    return "\n".join(parts)


def commands() -> list[str]:
    """Return the names of the commands, in the order of `genretag/cli.py`."""
    return [name for name in app if not name.startswith("-")]


def arguments(command: str) -> list[Argument]:
    """Return all arguments of a command. The argument for a settings dataclass comes before those of its fields."""
    collection = app[command].assemble_argument_collection(
        default_parameter=app.default_parameter, parse_docstring=True
    )
    return list(collection)


def variable(command: str, argument: Argument) -> str:
    """Return the environment variable of an option, such as GENRETAG_TAG_BATCH_SIZE."""
    return f"{PREFIX}{command.upper()}_{key(argument).upper()}"


def key(argument: Argument) -> str:
    """Return the key of an option in its command's table of the settings file, such as batch_size."""
    return argument.name.lstrip("-").replace("-", "_")


def _overview() -> str:
    rows = "\n".join(f"| [`{name}`](#{name}) | {_summary(app[name])} |" for name in commands())
    return f"| command | what it does |\n|---|---|\n{rows}\n"


def _command(name: str, shared: dict[type, list[str]]) -> str:
    text = cleandoc(app[name].help).split("\nParameters\n")[0]
    parts = [f"## {name}\n"]
    for paragraph in text.strip().split("\n\n"):
        example = paragraph.removeprefix("Example: ")
        parts.append(f"{paragraph}\n" if example == paragraph else f"```sh\n{example}\n```\n")
    for settings, members in _groups(arguments(name)):
        if settings in shared:
            parts.append(f"Also the [{settings.__name__}](#{settings.__name__.lower()}) that commands share.\n")
            continue
        if settings is not None:
            parts.append(f"`{settings.__name__}`: {_one_line(getdoc(settings) or '')}\n")
        parts.append("\n".join([TABLE, *(_row(name, argument) for argument in members)]) + "\n")
    return "\n".join(parts)


def _shared_section(settings: type, using: list[str]) -> str:
    members = next(members for group, members in _groups(arguments(using[0])) if group is settings)
    rows = [_row("<COMMAND>", argument) for argument in members]
    names = ", ".join(f"`{name}`" for name in using)
    head = f"## {settings.__name__}\n\n{_one_line(getdoc(settings) or '')} For {names}.\n\n"
    return head + "\n".join([TABLE, *rows]) + "\n"


def _shared_settings() -> dict[type, list[str]]:
    """Return the settings classes that at least `SHARED_BY` commands have, each with the names of these commands."""
    using = [(settings, name) for name in commands() for settings, _ in _groups(arguments(name)) if settings]
    often = [settings for settings, count in Counter(settings for settings, _ in using).items() if count >= SHARED_BY]
    return {settings: [name for other, name in using if other is settings] for settings in often}


def _groups(found: Iterable[Argument]) -> Iterator[tuple[type | None, list[Argument]]]:
    """Yield a command's arguments in groups: first those that are in no settings class, with None.

    Then yield each settings class with the arguments for its fields. Groups without arguments are left out.
    """
    settings: type | None = None
    members: list[Argument] = []
    for argument in found:
        if (fields_of := _settings_class(argument.hint)) is None:
            members.append(argument)
            continue
        if members:
            yield settings, members
        settings, members = fields_of, []
    if members:
        yield settings, members


def _settings_class(hint: Any) -> type | None:
    options = (hint, *get_args(hint))
    return next((option for option in options if isinstance(option, type) and is_dataclass(option)), None)


def _row(command: str, argument: Argument) -> str:
    positional = argument.field_info.kind in (Kind.POSITIONAL_OR_KEYWORD, Kind.VAR_POSITIONAL)
    many = argument.field_info.kind is Kind.VAR_POSITIONAL
    shown = key(argument).upper() + ("..." if many else "") if positional else _option(argument)
    sources = "" if many else f"`{variable(command, argument)}`, `{key(argument)}`"
    return f"| {_code(shown)} | {_default(argument)} | {_cell(argument.parameter.help or '')} | {sources} |"


def _option(argument: Argument) -> str:
    names = ", ".join(argument.names)
    choices = argument.get_choices()
    if choices:
        return f"{names} {'|'.join(choices)}"
    kinds = [kind for kind in (argument.hint, *get_args(argument.hint)) if kind in (int, float, str, Path)]
    words = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "FILE"}
    many = get_origin(argument.hint) is tuple or any(get_origin(kind) is list for kind in get_args(argument.hint))
    if many:
        return f"{names} TEXT..."
    return " ".join([names, "|".join(dict.fromkeys(words[kind] for kind in kinds))]).strip()


def _default(argument: Argument) -> str:
    if argument.required:
        return "required"
    value = argument.field_info.default
    if value is None or value is Kind.empty or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value}`"


def _summary(command: App) -> str:
    return _cell(cleandoc(command.help).split("\n\n")[0])


def _code(text: str) -> str:
    """Return the text as Markdown code.

    If it has `|` or `<`, return it as HTML, because `|` would end a table cell even in backticks.
    """
    if "|" not in text and "<" not in text:
        return f"`{text}`"
    return "<code>" + text.replace("<", "&lt;").replace("|", "&#124;") + "</code>"


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "&#124;")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def modules() -> str:
    """Return the text of docs/modules.md: the first paragraph of each module's docstring, by folder."""
    folders: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        sentence = _one_line((ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0])
        name = file.relative_to(PACKAGE).as_posix()
        folders.setdefault(name.rpartition("/")[0], []).append(f"| `{name}` | {_cell(sentence)} |")
    parts = [MODULES]
    for folder, rows in sorted(folders.items()):
        parts.append("\n".join([f"## {folder or 'genretag'}\n", "| file | idea |", "|---|---|", *rows, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    FILE.write_text(reference())
    MODULES_FILE.write_text(modules())
