"""Guarded reader: a process whose decoder hangs or crashes ends, and costs one poster instead of the job."""

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from genretag.errors import Failure
from genretag.scoring.reader import Held, Poster, PosterReader

LOOK_EVERY_S = 0.5  # between two checks for a decoder that hangs


class GuardedReader:
    """Reader of whole steps, in which a decoder that hangs or crashes costs one poster and not the job.

    If a decoder hangs for `decode_timeout_s`, its process ends itself, and Ray gives the step to another process. The
    ledger (`genretag.scoring.step_ledger`) remembers the posters that processes died over. These posters become
    failures.
    """

    def __init__(self, reader: PosterReader, ledger: Any, decode_timeout_s: float) -> None:
        self._reader = reader
        self._ledger = ledger
        self._closed = threading.Event()
        threading.Thread(target=self._end_when_hung, args=(decode_timeout_s,), daemon=True).start()

    def __enter__(self) -> "GuardedReader":
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop the thread that watches the decoder. It holds the ledger, whose process would live on otherwise."""
        self._closed.set()

    def read(
        self, uris: Sequence[str], held: Mapping[str, Collection[str]] | None = None
    ) -> list[Poster | Failure | Held] | None:
        """Return a result for each poster of one step, in the order of `uris`. Return None if the job must stop.

        `held` gives, by URI, the etags of versions that need no decoding (`PosterReader.read_new`). None means no such
        etags. The first URI is the step's name in the ledger.
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
        """Watch the decoder, and end the process if one poster takes longer than `limit_s` seconds.

        Nothing else ends a decoder that hangs. The ledger notes the poster first.
        """
        import ray

        while not self._closed.wait(LOOK_EVERY_S):
            if uri := self._reader.overdue(limit_s):
                ray.get(self._ledger.give_up.remote(uri, "timeout", f"not decoded within {limit_s:g} s"))
                os._exit(1)
