"""The command reference is generated from the program, and has every command and every setting."""

import runpy
from dataclasses import fields, is_dataclass
from typing import get_args, get_type_hints

import pytest
from documentation import DOCS, first_cells, section

from genretag.cli import app

REFERENCE = DOCS / "reference.md"
COMMANDS = [name for name in app if not name.startswith("-")]


def test_the_reference_is_what_the_program_generates():
    generated = runpy.run_path(str(DOCS / "make_reference.py"))["reference"]()

    assert REFERENCE.read_text() == generated, "docs/reference.md is out of date: run `make docs`"


def test_the_list_of_modules_is_what_the_program_generates():
    generated = runpy.run_path(str(DOCS / "make_reference.py"))["modules"]()

    assert (DOCS / "modules.md").read_text() == generated, "docs/modules.md is out of date: run `make docs`"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_of_a_command_has_a_row(command):
    """Take the expected settings from signatures and settings classes, independently of the generator."""
    shared = [kind.__name__ for kind in _settings(command) if f"[{kind.__name__}]" in section(REFERENCE, command)]

    listed = _listed(command).union(*map(_listed, shared))

    assert listed >= _expected(command)


@pytest.mark.parametrize(("command", "name"), [("tag", "rows_per_file"), ("train", "labels"), ("gallery", "output")])
def test_a_row_names_the_variable_and_the_key(command, name):
    assert f"`GENRETAG_{command.upper()}_{name.upper()}`, `{name}`" in section(REFERENCE, command)


def _listed(heading):
    """Return the arguments and options in the tables below a heading, as Python names."""
    words = (word for cell in first_cells(section(REFERENCE, heading)) for word in cell.split())
    named = (word.strip(".,").removeprefix("--") for word in words if word.startswith("--") or word.isupper())
    return {name.lower().replace("-", "_") for name in named}


def _expected(command):
    own = {name for name, hint in _hints(command).items() if not any(is_dataclass(kind) for kind in get_args(hint))}
    return own | {field.name for settings in _settings(command) for field in fields(settings)}


def _settings(command):
    return [kind for hint in _hints(command).values() for kind in get_args(hint) if is_dataclass(kind)]


def _hints(command):
    return {name: hint for name, hint in get_type_hints(app[command].default_command).items() if name != "return"}
