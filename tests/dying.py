"""Make a command that replaces part files (`compact`, `retag`) die at a chosen step, as in a crash."""

from contextlib import contextmanager

import pytest

from genretag.output import compaction
from genretag.output import compaction_journal as journal
from genretag.storage import Storage


class Died(BaseException):
    """Stands for the sudden end of the process. It is a BaseException, so that no error handler catches it."""


def die(*arguments, **options):
    """Raise `Died`, whatever the arguments are."""
    raise Died


def before_each(function):
    """Return a function that passes its first call on to `function`, and dies at the second call."""
    calls = []

    def once(*arguments):
        calls.append(arguments)
        return function(*arguments) if len(calls) == 1 else die()

    return once


def then_die(function):
    """Return a function that calls `function`, and then dies."""
    return lambda *arguments: die(function(*arguments))


DEATHS = {
    "writing new files": (compaction, "_durable", die),
    "writing the plan": (compaction, "begin", die),
    "the table's first change": (compaction, "carry_out", die),
    "the first delete": (journal, "_delete", die),
    "deleting": (journal, "_delete", before_each),
    "putting in place": (journal, "_place", die),
    "the table's second change": (journal, "_place", then_die),
    "removing the plan": (journal, "_remove", die),
    "removing the journal": (Storage, "delete_below", die),
}
STEPS = list(DEATHS)
DEATHS["ending old snapshots"] = (journal, "forget_snapshots", die)  # only if there is an Iceberg table


@contextmanager
def dying_at(step):
    """Make the block die at `step`, a key of `DEATHS`. Fail if the block does not die."""
    place, name, how = DEATHS[step]
    with pytest.MonkeyPatch.context() as dying, pytest.raises(Died):
        dying.setattr(place, name, die if how is die else how(getattr(place, name)))
        yield
