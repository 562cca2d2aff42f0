"""What outlives an actor that dies over a poster: which step it was in, which poster it held.

A decoder can hang or crash its process, and Ray then gives the same work to a new actor, for ever. So each step of
work is entered here. A step that comes again goes carefully, one poster at a time, each of them noted first; a poster
that two actors died over is given up, and becomes a failure row like any other.

The ledger also keeps the error budget. Ray may do a step again long after it ended, because the node that held its rows
is lost. So the outcome of a step replaces what the same step said before, and is never added to it.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from genretag.errors import Failure
from genretag.progress import LAST_WORDS_TIMEOUT_S, Board
from genretag.ray_session import actor_here
from genretag.tagging.outcomes import COUNTS, Outcome

DEATHS_AT_MOST = 2  # one may be chance: a node taken away just then
REASONS = {
    "timeout": "decoding took longer than --decode-timeout-s",
    "crashed": "decoding ended the process, twice",
}


@dataclass(frozen=True)
class Step:
    """How a step is to be done: which attempt it is, without which posters, and whether at all."""

    attempt: int
    given_up: dict[str, Failure]
    stopped: bool = False  # nothing that is left is to be scored

    @property
    def careful(self) -> bool:
        """Whether to go one poster at a time: an attempt before this one killed its actor."""
        return self.attempt > 1


class Ledger(Board):
    """The board of a job that scores, with the steps that are being worked on: one actor, as each costs a process.

    Call its methods with `.remote`.
    """

    def __init__(self, allowed_failures: int) -> None:
        super().__init__()
        self._allowed_failures = allowed_failures
        self._outcomes: dict[str, Outcome] = {}
        self._outcome = Outcome()  # the sum of these
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
        return Step(self._attempts[step], self._given_up, self.stopped())

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

    def stop(self, why: str) -> None:
        """Ends the job at the steps that have not begun: what `why` says, all other posters would meet too."""
        self.set(fatal=why)

    def stopped(self) -> bool:
        """Returns whether no other step is to begin: the job was stopped, or too many posters failed."""
        return "fatal" in self._facts or self._outcome.against_budget > self._allowed_failures

    def report(self, step: str, outcome: Outcome) -> None:
        """Replaces what a step has come to."""
        before = self._outcomes.get(step, Outcome())
        self._outcomes[step] = outcome
        self._outcome = _replaced(self._outcome, before, outcome)

    def outcome(self) -> Outcome:
        """Returns what all steps together have come to so far."""
        return self._outcome

    def read(self, events_seen: int) -> tuple[dict[str, Any], list[str]]:
        """Adds `scored`, `failed`, `other_files` and `already` to what a board says, once a step has ended."""
        values, events = super().read(events_seen)
        if self._outcomes:
            outcome = self._outcome
            values |= {"scored": outcome.scored, "failed": outcome.against_budget, "other_files": outcome.other_files}
            if already := outcome.already_scored + outcome.already_failed:
                values["already"] = already
        return values, events


def _replaced(total: Outcome, before: Outcome, after: Outcome) -> Outcome:
    failures = Counter(total.failures)
    failures.subtract(before.failures)
    failures.update(after.failures)
    counts = {name: getattr(total, name) - getattr(before, name) + getattr(after, name) for name in COUNTS}
    return Outcome(failures={name: n for name, n in failures.items() if n}, **counts)


def open_ledger(allowed_failures: int) -> Any:
    """Starts a ledger on the driver's node of the connected Ray cluster, and returns its handle.

    If more than `allowed_failures` posters fail, it stops the steps that have not begun.
    """
    return actor_here(Ledger, allowed_failures)


def last_outcome(ledger: Any) -> Outcome:
    """Returns the outcome of a job that has ended, an empty one if the ledger does not answer."""
    import ray

    try:
        outcome: Outcome = ray.get(ledger.outcome.remote(), timeout=LAST_WORDS_TIMEOUT_S)
    except (ray.exceptions.RayError, TimeoutError):
        return Outcome()
    return outcome
