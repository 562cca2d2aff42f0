#!/usr/bin/env bash
# Ray 2.60.0, Python 3.11, Linux: a head node that starts in a folder that it cannot enter ends after a minute, and the
# message does not say why.
#
# The modules of Ray's dashboard run in processes of Python's multiprocessing (context "forkserver"; "spawn" does the
# same), which first change to the working directory of their parent. If that is not allowed, they end with a
# PermissionError, which only dashboard.err has. `ray start --head` waits a minute, prints "Ray runtime started" and then
# ends, because the Ray client server has waited for the same minute. A worker node needs no dashboard and starts.
#
# It hurts whoever runs Ray in a read-only container with a tmpfs as home directory, which is also the image's working
# directory. runc 1.1, below Docker, gives a tmpfs to root, with the mode of the image's folder. If the image closed that
# folder to others, the user of the container is now one of them. Kubernetes's emptyDir is open to all, so the same image
# works there.
#
# Workaround: give the tmpfs to the container's user (`--tmpfs /home/me:uid=1000,gid=0`).
#
# Output seen:
#   open folder: still running after 100 s
#   closed folder: ended with 1, "Ray runtime started.", "failed to start. Received EOF from pipe."
#   closed folder, dashboard.err: PermissionError from os.chdir
#
# The script ends with exit code 1 if this output changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'chmod -R u+rwx "$folder"; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "ray[default]==2.60.0"
# root may enter every folder, so take that right away
limited=()
if test "$(id -u)" = 0; then limited=(setpriv --bounding-set=-dac_override,-dac_read_search); fi

start() {  # NAME: start a head in the folder NAME, and print the exit code after at most 100 s (124: it still ran)
  ports=$("$folder/venv/bin/python" -c '
import socket
free = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*[one.getsockname()[1] for one in free])')
  read -r port dashboard client <<< "$ports"
  code=0
  RAY_USAGE_STATS_ENABLED=0 timeout --kill-after=60 100 "${limited[@]}" "$folder/venv/bin/ray" start --head --block \
    --node-ip-address=127.0.0.1 --port="$port" --dashboard-port="$dashboard" --ray-client-server-port="$client" \
    --num-cpus=0 --object-store-memory=100000000 --temp-dir="$folder/$1-state" > "$folder/$1.log" 2>&1 || code=$?
  echo "$code"
}

mkdir "$folder/open" "$folder/closed"
cd "$folder/open"
open=$(start open)
cd "$folder/closed"
chmod 000 "$folder/closed"
closed=$(start closed)
cd /

test "$open" = 124 && echo "open folder: still running after 100 s"
test "$closed" = 1
grep -q "Ray runtime started\." "$folder/closed.log"
grep -q "failed to start. Received EOF from pipe\." "$folder/closed.log"
echo 'closed folder: ended with 1, "Ray runtime started.", "failed to start. Received EOF from pipe."'
grep -q "os.chdir" "$folder"/closed-state/session_2*/logs/dashboard.err
grep -q "PermissionError" "$folder"/closed-state/session_2*/logs/dashboard.err
echo "closed folder, dashboard.err: PermissionError from os.chdir"
