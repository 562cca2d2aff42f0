"""Look the packages of constraints.txt up in PyPI's list of known vulnerabilities. If one is found, exit with 1.

Where PyPI's service cannot be reached, such as behind a mirror, say so and exit with 0. If pip-audit fails for another
reason, exit with 2.
"""

import json
import subprocess
import sys
from pathlib import Path


def main() -> int:
    tool = Path(sys.executable).with_name("pip-audit")
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run([tool, "--requirement", "constraints.txt", *options], capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        print(f"pip-audit failed: {done.stderr[-2000:]}")
        return 0 if "ConnectionError" in done.stderr or "Max retries" in done.stderr else 2
    known = [package for package in packages if "vulns" in package]
    found = [(package["name"], package["version"], one) for package in known for one in package["vulns"]]
    for name, version, one in found:
        print(f"{name} {version}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'no version yet'}")
    print(f"{len(found)} vulnerabilities in {len(known)} packages; {len(packages) - len(known)} could not be looked up")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
