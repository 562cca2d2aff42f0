"""Ledger of steps: remembers, after an actor dies over a poster, the step and the poster that the actor held.

A decoder can hang or crash its process. Ray then gives the same work to a new actor, for ever. So each step of work is
entered here. A step that comes again goes carefully, one poster at a time, and each poster is noted first. If two
actors died over a poster, the poster is given up. It becomes a failure row like any other.

The ledger also keeps the error budget. Ray may repeat a step long after the step ended, because the node that held the
step's rows is lost. So the outcome of a step replaces the earlier outcome of the same step, and is never added to it.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from genretag.errors import Failure
from genretag.output.run_record import COUNTS, Outcome
from genretag.runtime.progress import LAST_WORDS_TIMEOUT_S, Board
from genretag.runtime.ray_session import actor_here

DEATHS_AT_MOST = 2  # a single death may be chance, such as a node that was taken away
REASONS = {
    "timeout": "decoding took longer than --decode-timeout-s",
    "crashed": "decoding ended the process, twice",
}


@dataclass(frozen=True)
class Step:
    """Instructions for one attempt at a step: the posters to leave out, by URI, and whether to do the step at all.

    `attempt` is 1 for the first attempt.
    """

    attempt: int
    given_up: dict[str, Failure]
    stopped: bool = False  # do not score the posters that are left

    @property
    def careful(self) -> bool:
        """True if the step must go one poster at a time, because an earlier attempt killed its actor."""
        return self.attempt > 1


class Ledger(Board):
    """Board of a scoring job that also holds the steps in progress: one actor for both, as each actor costs a process.

    Call its methods with `.remote`. A step is named by its first URI; a predict step has the prefix `predict`.
    """

    def __init__(self, allowed_failures: int) -> None:
        super().__init__()
        self._allowed_failures = allowed_failures
        self._outcomes: dict[str, Outcome] = {}
        self._outcome = Outcome()  # the sum of all `_outcomes`
        self._attempts: Counter[str] = Counter()
        self._held: dict[str, str] = {}
        self._deaths: Counter[str] = Counter()
        self._given_up: dict[str, Failure] = {}

    def begin(self, step: str) -> Step:
        """Note the start of an attempt at a step, and return its instructions.

        If an earlier attempt began and did not end, it killed its actor. The poster that it held then has one more
        death.
        """
        self._attempts[step] += 1
        if uri := self._held.pop(step, None):
            self._deaths[uri] += 1
            if self._deaths[uri] >= DEATHS_AT_MOST:
                self.give_up(uri, "crashed", f"{DEATHS_AT_MOST} processes ended while they decoded it")
        return Step(self._attempts[step], self._given_up, self.stopped())

    def hold(self, step: str, uri: str) -> None:
        """Note that a careful step now works on the poster `uri`."""
        self._held[step] = uri

    def give_up(self, uri: str, reason: str, message: str) -> None:
        """Make a poster a failure for good: no later attempt decodes it. `reason` is a key of `REASONS`."""
        self._given_up[uri] = Failure("decode", reason, message)

    def end(self, step: str) -> None:
        """Forget a step that has ended, so that a later attempt counts as its first."""
        self._attempts.pop(step, None)
        self._held.pop(step, None)

    def stop(self, why: str) -> None:
        """Stop the job: no other step begins. `why` is an error that all other posters would meet too."""
        self.set(fatal=why)

    def stopped(self) -> bool:
        """Return whether no other step may begin, because the job was stopped or too many posters failed."""
        return "fatal" in self._facts or self._outcome.against_budget > self._allowed_failures

    def report(self, step: str, outcome: Outcome) -> None:
        """Record the outcome of a step, in place of an earlier outcome of the same step."""
        before = self._outcomes.get(step, Outcome())
        self._outcomes[step] = outcome
        self._outcome = _replaced(self._outcome, before, outcome)

    def outcome(self) -> Outcome:
        """Return the sum of the outcomes of all steps so far."""
        return self._outcome

    def read(self, events_seen: int) -> tuple[dict[str, Any], list[str]]:
        """Return what `Board.read` returns, with the counts of posters among the values.

        These are `scored`, `failed` and `other_files` once a step has ended, and `already` if it is not 0.
        """
        values, events = super().read(events_seen)
        if self._outcomes:
            outcome = self._outcome
            values |= {"scored": outcome.scored, "failed": outcome.against_budget, "other_files": outcome.other_files}
            if already := outcome.already_scored + outcome.already_failed:
                values["already"] = already
        return values, events


def _replaced(total: Outcome, before: Outcome, after: Outcome) -> Outcome:
    """Return the total outcome after one step's outcome changed from `before` to `after`."""
    failures = Counter(total.failures)
    failures.subtract(before.failures)
    failures.update(after.failures)
    counts = {name: getattr(total, name) - getattr(before, name) + getattr(after, name) for name in COUNTS}
    return Outcome(failures={name: n for name, n in failures.items() if n}, **counts)


def open_ledger(allowed_failures: int) -> Any:
    """Start a ledger on the driver's node of the connected Ray cluster, and return its actor handle.

    If more than `allowed_failures` posters fail, the ledger stops the steps that have not begun.
    """
    return actor_here(Ledger, allowed_failures)


@contextmanager
def running_ledger(allowed_failures: int) -> Iterator[Any]:
    """Yield the actor handle of a ledger (`open_ledger`), and end the ledger's process after the block."""
    import ray

    ledger = open_ledger(allowed_failures)
    try:
        yield ledger
    finally:
        with suppress(ray.exceptions.RayError):  # the cluster may be gone
            ray.kill(ledger)


def last_outcome(ledger: Any) -> Outcome:
    """Return the summed outcome of a job that has ended; an empty outcome if the ledger does not answer."""
    import ray

    try:
        outcome: Outcome = ray.get(ledger.outcome.remote(), timeout=LAST_WORDS_TIMEOUT_S)
    except (ray.exceptions.RayError, TimeoutError):
        return Outcome()
    return outcome
