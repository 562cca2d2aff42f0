"""Ends a command that replaces part files at one of its steps, as a crash would."""

from contextlib import contextmanager

import pytest

from genretag.output import compaction as merging
from genretag.output import compaction as replacing
from genretag.output import compaction_journal as journal
from genretag.storage import Storage


class Died(BaseException):
    """The end of the process, which no handler sees."""


def die(*arguments, **options):
    raise Died


def before_each(function):
    """Does one call, and dies at the next."""
    calls = []

    def once(*arguments):
        calls.append(arguments)
        return function(*arguments) if len(calls) == 1 else die()

    return once


def then_die(function):
    return lambda *arguments: die(function(*arguments))


DEATHS = {
    "writing new files": (merging, "_durable", die),
    "writing the plan": (replacing, "begin", die),
    "the table's first change": (replacing, "carry_out", die),
    "the first delete": (journal, "_delete", die),
    "deleting": (journal, "_delete", before_each),
    "putting in place": (journal, "_place", die),
    "the table's second change": (journal, "_place", then_die),
    "removing the plan": (journal, "_remove", die),
    "removing the journal": (Storage, "delete_below", die),
}
STEPS = list(DEATHS)
DEATHS["ending old snapshots"] = (journal, "forget_snapshots", die)  # with a table only


@contextmanager
def dying_at(step):
    """Has the block die at a step, a key of `DEATHS`."""
    place, name, how = DEATHS[step]
    with pytest.MonkeyPatch.context() as dying, pytest.raises(Died):
        dying.setattr(place, name, die if how is die else how(getattr(place, name)))
        yield
