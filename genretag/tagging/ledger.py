"""What outlives an actor that dies over a poster: which step it was in, which poster it held.

A decoder can hang or crash its process, and Ray then gives the same work to a new actor, for ever. So each step of
work is entered here. A step that comes again goes carefully, one poster at a time, each of them noted first; a poster
that two actors died over is given up, and becomes a failure row like any other.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from genretag.errors import Failure
from genretag.progress import Board
from genretag.ray_session import actor_here

DEATHS_AT_MOST = 2  # one may be chance: a node taken away just then
REASONS = {
    "timeout": "decoding took longer than --decode-timeout-s",
    "crashed": "decoding ended the process, twice",
}


@dataclass(frozen=True)
class Step:
    """How a step is to be done: which attempt it is, and without which posters."""

    attempt: int
    given_up: dict[str, Failure]

    @property
    def careful(self) -> bool:
        """Whether to go one poster at a time: an attempt before this one killed its actor."""
        return self.attempt > 1


class Ledger(Board):
    """The board of a job that scores, with the steps that are being worked on: one actor, as each costs a process.

    Call its methods with `.remote`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._attempts: Counter[str] = Counter()
        self._held: dict[str, str] = {}
        self._deaths: Counter[str] = Counter()
        self._given_up: dict[str, Failure] = {}

    def begin(self, step: str) -> Step:
        """Enters a step; one that has begun before and not ended has killed its actor."""
        self._attempts[step] += 1
        if uri := self._held.pop(step, None):
            self._deaths[uri] += 1
            if self._deaths[uri] >= DEATHS_AT_MOST:
                self.give_up(uri, "crashed", f"{DEATHS_AT_MOST} processes ended while they decoded it")
        return Step(self._attempts[step], self._given_up)

    def hold(self, step: str, uri: str) -> None:
        """Notes which poster of a careful step comes next."""
        self._held[step] = uri

    def give_up(self, uri: str, reason: str, message: str) -> None:
        """Makes a poster a failure for good; `reason` is a key of `REASONS`."""
        self._given_up[uri] = Failure("decode", reason, message)

    def end(self, step: str) -> None:
        """Takes a step out again."""
        self._attempts.pop(step, None)
        self._held.pop(step, None)


def open_ledger() -> Any:
    """Starts a ledger on the driver's node of the connected Ray cluster, and returns its handle."""
    return actor_here(Ledger)
