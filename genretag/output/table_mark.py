"""`OUTPUT/_table.json`: the name of the table that reads an output's files.

Commands that replace files need the table's name, so that the table switches to the new files. An output feeds one
table.
"""

import json

from genretag.errors import UsageError, one_line, unreadable_output
from genretag.settings import TableSettings
from genretag.storage import Storage, StorageError, join

MARK = "_table.json"


def marked_table(output: str, storage: Storage) -> str | None:
    """Return the name of the table that reads this output's files, from `OUTPUT/_table.json`.

    Return None if there is no such file. Raises `UsageError` if the file or the output cannot be read.
    """
    try:
        return str(json.loads(bytes(storage.get(join(output, MARK)).data))["table"])
    except StorageError as error:
        if error.reason == "not_found":
            return None
        raise unreadable_output(output, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{join(output, MARK)} cannot be read: write the table's name into it again") from error


def require_mark(settings: TableSettings, output: str, storage: Storage) -> None:
    """Raise `UsageError` if `OUTPUT/_table.json` exists and names another table than `settings`."""
    marked = marked_table(output, storage)
    if marked not in (None, settings.name):
        raise UsageError(
            f"{output} feeds the table {one_line(marked)} already: name that one, another output, "
            f"or remove {join(output, MARK)} if that table is gone"
        )


def mark(settings: TableSettings, output: str, storage: Storage) -> None:
    """Write the table's name into `OUTPUT/_table.json`, so that `compact` and `retag` refuse to run without `--table`.

    If the file names this table already, do nothing. Raises `UsageError` if the file names another table.
    """
    require_mark(settings, output, storage)
    if marked_table(output, storage) is None:
        storage.put(join(output, MARK), json.dumps({"table": settings.name}).encode())


def require_marked(settings: TableSettings, output: str, storage: Storage) -> None:
    """Raise `UsageError` if a table reads the output's files, and `settings` do not name it."""
    marked = marked_table(output, storage)
    if marked not in (None, settings.name):
        raise UsageError(f"the table {marked} reads the files of {output}: add --table {marked}, and its --catalog")
