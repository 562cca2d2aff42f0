"""Step ledger: a Ray actor that records which posters crash the decoder, and how many posters have failed.

A step is the work on up to 256 posters. If a decoder hangs or crashes its process, Ray repeats the step in a new
process, for ever. So each process tells the ledger when a step begins and ends. On the second attempt, the process
reads one poster at a time, and tells the ledger the URI of each poster before it reads the poster. If two processes
crash over the same poster, or one hangs, the poster becomes a failure row, and later attempts leave it out.

The ledger also stops a job in which too many posters fail. If a node is lost together with the rows of a finished step,
Ray repeats the step. So the outcome of a step replaces an earlier outcome of the same step, and is never added to it.
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

DEATHS_AT_MOST = 2  # processes that ended over one poster; a single end may be chance, such as a lost node
REASONS = {
    "timeout": "decoding took longer than --decode-timeout-s",
    "crashed": "decoding ended the process, twice",
}


@dataclass(frozen=True)
class Step:
    """Instructions of the ledger (a Ray actor) for one attempt at a step (up to 256 posters).

    `attempt` is 1 for the first attempt. The step must not decode the posters in `given_up`, a dictionary from URI to
    failure.
    """

    attempt: int
    given_up: dict[str, Failure]
    stopped: bool = False  # True if the job must stop: do not do this step

    @property
    def careful(self) -> bool:
        """True if the posters must be read one at a time, because an earlier attempt at the step did not end."""
        return self.attempt > 1


class Ledger(Board):
    """Progress board of a scoring job. It also records steps, posters that crash the decoder, and failed posters.

    It runs as a Ray actor: call its methods with `.remote`. A step is the work on up to 256 posters. The name of a step
    is the URI of its first poster. The predict stage puts `predict ` before that URI. If more than `allowed_failures`
    posters fail, no other step begins.
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
        """Record that an attempt at `step` begins, and return its instructions.

        If the process of an earlier attempt ended while it read a poster (`hold`), the poster counts as the cause. A
        poster that has ended `DEATHS_AT_MOST` processes becomes a failure.
        """
        self._attempts[step] += 1
        if uri := self._held.pop(step, None):
            self._deaths[uri] += 1
            if self._deaths[uri] >= DEATHS_AT_MOST:
                self.give_up(uri, "crashed", f"{DEATHS_AT_MOST} processes ended while they decoded it")
        return Step(self._attempts[step], self._given_up, self.stopped())

    def hold(self, step: str, uri: str) -> None:
        """Record that an attempt at `step`, which reads one poster at a time, now reads the poster `uri`."""
        self._held[step] = uri

    def give_up(self, uri: str, reason: str, message: str) -> None:
        """Record the poster `uri` as a failure. No later attempt decodes it. `reason` is a key of `REASONS`."""
        self._given_up[uri] = Failure("decode", reason, message)

    def end(self, step: str) -> None:
        """Forget the attempts at a step that has ended, so that the next attempt counts as the first."""
        self._attempts.pop(step, None)
        self._held.pop(step, None)

    def stop(self, why: str) -> None:
        """Stop the job: no other step begins. `why` is the message of an error that all posters would meet."""
        self.set(fatal=why)

    def stopped(self) -> bool:
        """Return whether no other step may begin, because the job was stopped or too many posters failed."""
        return "fatal" in self._facts or self._outcome.against_budget > self._allowed_failures

    def report(self, step: str, outcome: Outcome) -> None:
        """Record the outcome (counts of posters) of a step. It replaces an earlier outcome of the same step."""
        before = self._outcomes.get(step, Outcome())
        self._outcomes[step] = outcome
        self._outcome = _replaced(self._outcome, before, outcome)

    def outcome(self) -> Outcome:
        """Return the sum of the outcomes of all steps so far."""
        return self._outcome

    def read(self, events_seen: int) -> tuple[dict[str, Any], list[str]]:
        """Return the values and events of `Board.read`, with counts of posters among the values.

        After the first step has ended, these are `scored`, `failed`, `other_files`, and `already` if it is not 0.
        `already` counts posters that were not decoded, because their present version already has a row in the output.
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
    """Start a `Ledger` (it counts a job's failures) on the driver's node of the Ray cluster. Return its actor handle.

    If more than `allowed_failures` posters fail, no other step begins.
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
    """Return the outcome (counts of posters) of a job that has ended; empty if the ledger does not answer."""
    import ray

    try:
        outcome: Outcome = ray.get(ledger.outcome.remote(), timeout=LAST_WORDS_TIMEOUT_S)
    except (ray.exceptions.RayError, TimeoutError):
        return Outcome()
    return outcome
