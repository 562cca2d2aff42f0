"""An Airflow DAG that runs the night on a Ray cluster, and knows what its exit codes ask for.

    exit code   what Airflow does
    0           done; the next tasks run
    1           tries again: that may help and never does harm (what was finished is not done again)
    2           fails at once, with no other try: a person must act, and the last line of the log says how
    3           skips: another run writes to the same output
    143         tries again: the job was stopped, such as by a machine that was taken away

Submitting is harmless to repeat: a task that Airflow starts again follows the job that runs already. The connection to
the cluster comes from the worker's environment: RAY_API_SERVER_ADDRESS, and RAY_AUTH_TOKEN from your secrets backend.
"""

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

GENRETAG = "/opt/genretag/bin/genretag"  # an environment of its own: Airflow and Ray want different libraries
SETTINGS = "/etc/genretag/genretag.toml"  # such as cluster/kubernetes/base/genretag.toml
SUBMIT = ["submit", "--wait"]
TAG = ["tag", "--config", SETTINGS, "--date"]  # and the night
FINAL = {2: AirflowFailException, 3: AirflowSkipException}


def judge(code: int, last_line: str) -> None:
    """Raises what Airflow is to do after an exit code; nothing after 0."""
    if code:
        raise FINAL.get(code, AirflowException)(f"exit code {code}: {last_line}")


@dag(
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # a night tags all that is new, so a missed one needs no run of its own
    max_active_runs=1,
    tags=["genretag"],
)
def genretag_night() -> None:
    """Tag what is new in the bucket; then what your warehouse needs."""

    @task(retries=2, retry_delay=timedelta(minutes=5), execution_timeout=timedelta(hours=10))
    def tag_new_posters(logical_date: datetime | None = None) -> None:
        night = logical_date or datetime.now(UTC)  # a run that is started by hand may have none
        result = SubprocessHook().run_command([GENRETAG, *SUBMIT, *TAG, f"{night:%Y-%m-%d}"])
        judge(result.exit_code, result.output)

    tag_new_posters()


genretag_night()
