"""Guarded reader: if a decoder hangs or crashes, one poster becomes a failure, and the job goes on."""

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from genretag.errors import Failure
from genretag.scoring.reader import Held, Poster, PosterReader

LOOK_EVERY_S = 0.1  # interval of the checks for a decoder that hangs


class GuardedReader:
    """Reader of the posters of one step. If the decoder hangs or crashes on a poster, the job loses only that poster.

    If one poster takes longer than `decode_timeout_s` seconds to decode, the process ends itself. Ray then repeats the
    step in another process. The ledger (`genretag.scoring.step_ledger`) records the posters that hang or crash the
    decoder. After one hang or two crashes, a poster becomes a failure and is not decoded again.
    """

    def __init__(self, reader: PosterReader, ledger: Any, decode_timeout_s: float) -> None:
        self._reader = reader
        self._ledger = ledger
        self._closed = threading.Event()
        threading.Thread(target=self._end_when_hung, args=(decode_timeout_s,), daemon=True).start()

    def __enter__(self) -> "GuardedReader":
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop the thread that watches the decoder.

        The thread has a handle of the ledger (a Ray actor). The handle would keep the ledger's process alive.
        """
        self._closed.set()

    def read(
        self, uris: Sequence[str], held: Mapping[str, Collection[str]] | None = None
    ) -> list[Poster | Failure | Held] | None:
        """Read the posters of one step. Return their results in the order of `uris`, or None if the job must stop.

        `held` maps a URI to the etags of those versions of the object that have a row in the output. A poster with such
        an etag is not decoded, and its result is `Held`. If `held` is None, all posters are decoded. `uris` must not be
        empty, because the first URI names the step in the ledger (the actor that records attempts).
        """
        import ray

        known, step_name = held or {}, uris[0]
        step = ray.get(self._ledger.begin.remote(step_name))
        if step.stopped:
            return None
        given_up = step.given_up
        if step.careful:
            results = {}
            for uri in uris:
                if uri not in given_up and uri not in results:
                    ray.get(self._ledger.hold.remote(step_name, uri))
                    results[uri] = self._reader.read_new(uri, known.get(uri, ()))
        else:
            wanted = [uri for uri in uris if uri not in given_up]
            read = self._reader.read_many_new(wanted, [known.get(uri, ()) for uri in wanted])
            results = dict(zip(wanted, read, strict=True))
        self._ledger.end.remote(step_name)
        return [given_up.get(uri) or results[uri] for uri in uris]

    def _end_when_hung(self, limit_s: float) -> None:
        """Watch the decoder, and end this process if one poster takes longer than `limit_s` seconds to decode.

        A thread that hangs in C code ends only with its process. Before the process ends, the ledger (a Ray
        actor) records the poster as a failure.
        """
        import ray

        while not self._closed.wait(LOOK_EVERY_S):
            if uri := self._reader.overdue(limit_s):
                ray.get(self._ledger.give_up.remote(uri, "timeout", f"not decoded within {limit_s:g} s"))
                os._exit(1)
