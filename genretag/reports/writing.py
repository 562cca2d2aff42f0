"""Where pages go, local or in a bucket, and the rule that no page is worth the job that it tells of."""

import logging
from collections.abc import Callable

from genretag.errors import UsageError
from genretag.storage import Storage, StorageError, resolve

logger = logging.getLogger(__name__)


def write_page(location: str, page: bytes, storage: Storage) -> str:
    """Writes a page and returns where. Raises `UsageError` where it cannot be written."""
    place = resolve(location)
    try:
        storage.put(place, page)
    except StorageError as error:
        raise UsageError(f"cannot write the page to {place}: {error}") from error
    return place


def draw_if_possible(what: str, draw: Callable[[], str]) -> str | None:
    """What `draw` returns, or none after a warning: the job that this page tells of has ended well."""
    try:
        return draw()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a page, the work is done
        logger.warning("%s could not be drawn (%s: %s); the job itself ended well", what, type(error).__name__, error)
        return None
