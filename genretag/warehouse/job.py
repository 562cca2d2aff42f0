"""What `genretag warehouse` does: the bundle's labels to SQL, on the terminal or in a folder."""

from collections.abc import Mapping
from pathlib import Path

from genretag.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.errors import UsageError, one_line
from genretag.storage import Storage
from genretag.warehouse.generate import generate
from genretag.warehouse.settings import WarehouseSettings


def warehouse_files(
    dialect: str, location: str, settings: WarehouseSettings, storage: Storage, model: str | None = None
) -> dict[str, str]:
    """The files for one warehouse by name, in the order in which they run. Raises `UsageError`."""
    bundle = load_bundle(model or str(DEFAULT_BUNDLE), storage)
    return generate(bundle.labels, dialect, location, settings)


def write_files(files: Mapping[str, str], folder: Path) -> None:
    """Writes the files, over those that are there. Raises `UsageError` where that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {one_line(error)}") from error


def as_script(files: Mapping[str, str]) -> str:
    """All SQL in one text; dbt's file is none."""
    return "\n".join(f"-- {name}\n{text}" for name, text in files.items() if name.endswith(".sql"))
