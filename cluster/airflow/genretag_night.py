"""An Airflow DAG that runs `genretag tag` every night on a Ray cluster, and reacts to its exit codes.

    exit code   what Airflow does
    0           runs the next tasks: the command succeeded
    1           tries again, which may help and never does harm (finished posters are not scored again)
    2           fails at once without another try: a person must act, and the last line of the log says how
    3           skips the task: another run writes to the same output
    143         tries again: the job was stopped, for example because its machine was reclaimed

A submission can be repeated safely: a task that Airflow starts again follows the job that already runs. The connection
comes from the environment of the Airflow worker: RAY_API_SERVER_ADDRESS, and RAY_AUTH_TOKEN from your secrets backend.
"""

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

GENRETAG = "/opt/genretag/bin/genretag"  # a separate environment, because Airflow and Ray need different libraries
SETTINGS = "/etc/genretag/genretag.toml"  # a settings file, such as cluster/kubernetes/overlays/cpu/genretag.toml
SUBMIT = ["submit", "--wait"]
TAG = ["tag", "--config", SETTINGS, "--date"]  # the date of the night is added
FINAL = {2: AirflowFailException, 3: AirflowSkipException}


def judge(code: int, last_line: str) -> None:
    """Raise the exception that makes Airflow react to an exit code: fail, skip or retry. For 0, do nothing."""
    if code:
        raise FINAL.get(code, AirflowException)(f"exit code {code}: {last_line}")


@dag(
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # a night tags everything new, so a missed night needs no separate run
    max_active_runs=1,
    tags=["genretag"],
)
def genretag_night() -> None:
    """Tag the new posters in the bucket. Add tasks for your warehouse after it."""

    @task(retries=2, retry_delay=timedelta(minutes=5), execution_timeout=timedelta(hours=10))
    def tag_new_posters(logical_date: datetime | None = None) -> None:
        night = logical_date or datetime.now(UTC)  # a run that is started by hand may have no logical date
        result = SubprocessHook().run_command([GENRETAG, *SUBMIT, *TAG, f"{night:%Y-%m-%d}"])
        judge(result.exit_code, result.output)

    tag_new_posters()


genretag_night()
