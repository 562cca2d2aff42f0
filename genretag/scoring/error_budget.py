"""Error budget: the check that not too many posters failed, and the errors to raise if too many did."""

from collections.abc import Mapping
from typing import Any

from genretag.errors import JobError, UsageError
from genretag.images.file_kinds import OTHER_FILE
from genretag.output.run_record import Outcome, RunRecord
from genretag.scoring.settings import TagSettings
from genretag.scoring.step_ledger import last_outcome
from genretag.scoring.worklist import Worklist


def require_not_stopped(
    words: Mapping[str, Any], ledger: Any, settings: TagSettings, posters: int, output: str
) -> None:
    """Raise an error if the ledger (the actor that counts failures) stopped the job early; else do nothing.

    A stopped job ends without an exception. `words` are the values that `last_words` returned for the ledger. `posters`
    is the number of posters to score, and `output` is the output's location, for the message. Raises `UsageError` if
    the job met an error that all posters would meet, and `JobError` if more posters failed than the error budget
    allows.
    """
    if "fatal" in words:
        raise stopped(words["fatal"], output)
    outcome = last_outcome(ledger)
    if outcome.against_budget > settings.allowed_failures(posters):
        raise _too_many_failures(outcome, posters, output)


def stopped(why: str, output: str) -> UsageError:
    """Return the error to raise for a job that was stopped.

    Its message has the reason `why`, the location `output` of the finished rows, and the next step for the user.
    """
    return UsageError(f"{why}; what was finished is in {output}, run the same command again after that")


def require_success(record: RunRecord, worklist: Worklist, settings: TagSettings) -> None:
    """Raise `JobError` if too many posters failed on this run, or on this run and earlier runs together.

    `TagSettings.allowed_failures` limits this run, and `TagSettings.allowed_of_all` limits all runs. Earlier failures
    count, so that a failed command does not succeed when it runs again and finds nothing left to score. Raises
    `UsageError` if no listed file is a poster.
    """
    outcome = Outcome(record.scored, record.failures)
    if outcome.against_budget > settings.allowed_failures(worklist.to_score):
        raise _too_many_failures(outcome, worklist.to_score, record.output)
    posters = worklist.listed - outcome.other_files - worklist.already_other
    if not posters:
        raise UsageError(
            f"none of the {worklist.listed} files at {record.images} is a poster: {record.output}/failures says what "
            "they are; a manifest, or a folder of its parts, has a name that ends in .parquet, .csv or .csv.gz"
        )
    failed = outcome.against_budget + worklist.already_failed - worklist.already_other
    if failed > settings.allowed_of_all(posters):
        raise _most_failed(outcome, failed, posters, record.output)


def _too_many_failures(outcome: Outcome, posters: int, output: str) -> JobError:
    """Return the error of a run that exceeded its error budget. The run had `posters` posters to score."""
    return JobError(
        f"{outcome.against_budget} of {posters} posters failed, more than the error budget allows, "
        f"{_commonest(outcome)}: fix the cause or raise --error-budget, and run the same command again; "
        f"what was finished is in {output}"
    )


def _most_failed(outcome: Outcome, failed: int, posters: int, output: str) -> JobError:
    """Return the error of an output in which `failed` of all `posters` posters failed, on this run or earlier runs."""
    tonight = f", {_commonest(outcome)}" if outcome.against_budget else ", all on earlier runs"
    return JobError(
        f"{failed} of all {posters} posters failed{tonight}: {output}/failures says why; fix the cause and run the "
        "same command again with --retry-failed, or allow them with --error-budget"
    )


def _commonest(outcome: Outcome) -> str:
    """Return the most frequent reason of failure as text, such as `12 of them by fetch: timeout`.

    Files that are no posters do not count. There must be at least one failure that counts.
    """
    reasons = {name: count for name, count in outcome.failures.items() if not name.endswith(OTHER_FILE)}
    most = max(reasons, key=lambda name: reasons[name])
    return f"{reasons[most]} of them by {most}"
