"""Error budget: how many posters may fail before a run counts as failed, and the message if more do."""

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
    """Raise the error that ended a job before all steps were done; do nothing if the job was not stopped.

    The steps that were left gave no rows. `words` are the last values on the ledger's board, and `posters` is the
    length of the worklist. Raises `UsageError` for an error that all posters would meet, and `JobError` if too many
    posters failed.
    """
    if "fatal" in words:
        raise stopped(words["fatal"], output)
    outcome = last_outcome(ledger)
    if outcome.against_budget > settings.allowed_failures(posters):
        raise _too_many_failures(outcome, posters, output)


def stopped(why: str, output: str) -> UsageError:
    """Return the error of a job that was stopped for the reason `why`. The message also says what to do next."""
    return UsageError(f"{why}; what was finished is in {output}, run the same command again after that")


def require_success(record: RunRecord, worklist: Worklist, settings: TagSettings) -> None:
    """Raise `JobError` if too many posters of this run failed, or too many of all posters on this run or before.

    Raises `UsageError` if no listed file is a poster. Failures of earlier runs count, because a second run of the same
    command may have nothing to score. It must not turn a failed job into a success.
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
    """Return the error of a job in which more of the `posters` posters failed than the error budget allows."""
    return JobError(
        f"{outcome.against_budget} of {posters} posters failed, more than the error budget allows, "
        f"{_commonest(outcome)}: fix the cause or raise --error-budget, and run the same command again; "
        f"what was finished is in {output}"
    )


def _most_failed(outcome: Outcome, failed: int, posters: int, output: str) -> JobError:
    """Return the error of a job of `posters` posters, of which `failed` failed on this run or before."""
    tonight = f", {_commonest(outcome)}" if outcome.against_budget else ", all on earlier runs"
    return JobError(
        f"{failed} of all {posters} posters failed{tonight}: {output}/failures says why; fix the cause and run the "
        "same command again with --retry-failed, or allow them with --error-budget"
    )


def _commonest(outcome: Outcome) -> str:
    """Return the most frequent reason of failure and its count, as text; files that are no posters do not count."""
    reasons = {name: count for name, count in outcome.failures.items() if not name.endswith(OTHER_FILE)}
    most = max(reasons, key=lambda name: reasons[name])
    return f"{reasons[most]} of them by {most}"
