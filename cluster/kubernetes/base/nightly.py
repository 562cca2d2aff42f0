"""Run tonight's RayJob: copy the suspended RayJob PATTERN, wait until the copy ends, and exit with its exit code.

    python nightly.py PATTERN        with JOB_NAME and JOB_UID of the Kubernetes Job that it runs in

Exit codes are those of `genretag tag`: 0 success, 1 retry, 2 a person must act, 3 another run holds the output. The
RayJob is named after the Kubernetes Job. So a second pod of the same night finds the RayJob of the first pod and waits
for it. The Kubernetes Job owns the RayJob, and both are deleted together. The script needs only the standard library.
"""

import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

DONE, RETRY, ACT, HELD = 0, 1, 2, 3
IDENTITY = Path("/var/run/secrets/kubernetes.io/serviceaccount")
POLL_S, REQUEST_S = 10.0, 30.0
SILENCE_S = 600.0  # longest outage of the API that `wait` tolerates
ENDED = ("Complete", "Failed")  # final states of KubeRay, next to ValidationFailed
EXIT_CODE = re.compile(r"failed with exit code (-?\d+)")  # as in the message of Ray's job server


class Refused(Exception):
    """The API refuses the request, and would refuse a retry too."""


class RayJobs:
    """The RayJobs of this pod's namespace, read and created through the Kubernetes API."""

    def __init__(self, server: str, identity: Path = IDENTITY) -> None:
        namespace = (identity / "namespace").read_text().strip()
        self._url = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self._identity = identity

    def get(self, name: str) -> dict[str, Any]:
        """Return a RayJob. Raises `Refused` if the API refuses, and `OSError` if it does not answer."""
        return self._ask("GET", f"{self._url}/{name}")

    def create(self, rayjob: dict[str, Any]) -> bool:
        """Create a RayJob. Return False if there is already one with this name.

        Raises `Refused` if the API refuses, and `OSError` if it does not answer.
        """
        try:
            self._ask("POST", self._url, rayjob)
        except urllib.error.HTTPError as error:
            if error.code == 409:
                return False
            raise
        return True

    def _ask(self, method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        authority = self._identity / "ca.crt"
        context = ssl.create_default_context(cafile=authority) if url.startswith("https:") else None
        headers = {
            # Kubernetes renews the token in the file.
            "Authorization": f"Bearer {(self._identity / 'token').read_text().strip()}",
            "Content-Type": "application/json",
        }
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - the cluster's own API
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_S, context=context) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code in (400, 401, 403, 404, 422):
                raise Refused(f"{method} {url}: {error.code} {error.reason} {_reason(error)}") from error
            raise


def of_tonight(pattern: dict[str, Any], name: str, job: str, uid: str) -> dict[str, Any]:
    """Return a copy of the pattern with this name, not suspended, and owned by the Kubernetes Job `job`."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid}
    labels = pattern["metadata"].get("labels", {})
    metadata = {"name": name, "labels": labels, "ownerReferences": [owner]}
    kind = {"apiVersion": pattern["apiVersion"], "kind": pattern["kind"]}
    return {**kind, "metadata": metadata, "spec": {**pattern["spec"], "suspend": False}}


def exit_code(status: dict[str, Any]) -> int | None:
    """Return the exit code for a RayJob's status, or None while the RayJob runs, waits or is suspended."""
    if status.get("jobStatus") == "SUCCEEDED":
        return DONE
    if status.get("jobDeploymentStatus") == "ValidationFailed":
        return ACT
    if status.get("jobDeploymentStatus") not in ENDED and status.get("jobStatus") not in ("FAILED", "STOPPED"):
        return None
    said = EXIT_CODE.search(status.get("message", ""))
    return int(said[1]) if said and int(said[1]) in (ACT, HELD) else RETRY


def run(rayjobs: RayJobs, pattern: str, job: str, uid: str, poll_s: float = POLL_S) -> int:
    """Create tonight's RayJob, wait for its end, and return its exit code.

    If an earlier pod created the RayJob, wait for that. If that RayJob failed with code 1, create the next one.
    """
    attempt = 1
    while True:
        name = f"{job}-{attempt}"
        made = rayjobs.create(of_tonight(rayjobs.get(pattern), name, job, uid))
        _say(f"{name}: {'made' if made else 'is there already'}")
        code = wait(rayjobs, name, poll_s)
        if made or code != RETRY:
            return code
        attempt += 1  # the RayJob of an earlier pod failed: try the next number


def wait(rayjobs: RayJobs, name: str, poll_s: float = POLL_S) -> int:
    """Wait until a RayJob ends and return its exit code.

    Raises `OSError` if the API does not answer for `SILENCE_S` seconds.
    """
    heard, shown = time.monotonic(), ""
    while True:
        try:
            status = rayjobs.get(name).get("status", {})
            heard = time.monotonic()
        except OSError as error:
            if time.monotonic() - heard > SILENCE_S:
                raise
            _say(f"the Kubernetes API does not answer ({error}), asking again")
            status = {}
        now = f"{status.get('jobDeploymentStatus', 'new')} {status.get('jobStatus', '')}".strip()
        if now != shown:
            _say(f"{name}: {now}")
            shown = now
        code = exit_code(status)
        if code is not None:
            if code != DONE:
                _say(f"{name} ended with exit code {code}: {status.get('message') or status.get('reason')}")
            return code
        time.sleep(poll_s)


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error).get("message", ""))[:500]
    except ValueError:
        return ""


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S', time.gmtime())} {line}", flush=True)  # noqa: T201


def main(arguments: list[str]) -> int:
    """Run the script with its command-line arguments and return the exit code."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    try:
        rayjobs = RayJobs(f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}")
        return run(rayjobs, arguments[0], os.environ["JOB_NAME"], os.environ["JOB_UID"])
    except Refused as error:
        _say(f"refused: {error}; check the Role genretag-nightly and that the RayJob {arguments[0]} is there")
        return ACT
    except OSError as error:
        _say(f"the Kubernetes API does not answer: {error}")
        return RETRY


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
