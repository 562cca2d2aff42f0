"""Whether a night counts as a success: how many posters may fail, and what to say if more do."""

from collections.abc import Mapping
from typing import Any

from genretag.errors import JobError, UsageError
from genretag.other_files import OTHER_FILE
from genretag.tagging.ledger import last_outcome
from genretag.tagging.outcomes import Outcome
from genretag.tagging.run_record import RunRecord
from genretag.tagging.settings import TagSettings
from genretag.tagging.worklist import Worklist


def require_not_stopped(
    words: Mapping[str, Any], ledger: Any, settings: TagSettings, posters: int, output: str
) -> None:
    """Raises what ended the job early: the steps that were left then gave no rows."""
    if "fatal" in words:
        raise stopped(words["fatal"], output)
    outcome = last_outcome(ledger)
    if outcome.against_budget > settings.allowed_failures(posters):
        raise _too_many_failures(outcome, posters, output)


def stopped(why: str, output: str) -> UsageError:
    return UsageError(f"{why}; what was finished is in {output}, run the same command again after that")


def require_success(record: RunRecord, worklist: Worklist, settings: TagSettings) -> None:
    """Raises `JobError` if too many posters failed, or in a small table most of them, on this night or before.

    Raises `UsageError` if no file is a poster. That the same command runs again must not turn a table in which nothing
    works into a success.
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
    return JobError(
        f"{outcome.against_budget} of {posters} posters failed, more than the error budget allows, "
        f"{_commonest(outcome)}: fix the cause or raise --error-budget, and run the same command again; "
        f"what was finished is in {output}"
    )


def _most_failed(outcome: Outcome, failed: int, posters: int, output: str) -> JobError:
    tonight = f", {_commonest(outcome)}" if outcome.against_budget else ", all on earlier runs"
    return JobError(
        f"{failed} of all {posters} posters failed{tonight}: {output}/failures says why; fix the cause and run the "
        "same command again with --retry-failed, or allow them with --error-budget"
    )


def _commonest(outcome: Outcome) -> str:
    reasons = {name: count for name, count in outcome.failures.items() if not name.endswith(OTHER_FILE)}
    most = max(reasons, key=lambda name: reasons[name])
    return f"{reasons[most]} of them by {most}"
