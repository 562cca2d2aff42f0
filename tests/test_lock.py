"""Only one run writes to an output, in a folder and in a bucket. A dead holder is replaced, a living one never."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import asdict, replace

import pyarrow as pa
import pytest
from nights import a_run
from store_front import ErrorAnswer, store_front

from genretag.errors import OutputHeldError
from genretag.output import lock, part_files
from genretag.output.lock import LOCK, Holder, holding_output, output_lock, require_held
from genretag.output.part_files import PartFiles, remove_late_parts
from genretag.storage import Storage, StorageError, join, local
from genretag.storage import conditional_writes as conditional
from genretag.storage.conditional_writes import TimedStorage, lock_storage

pytestmark = pytest.mark.slow  # these tests start processes that hold an output


@pytest.fixture(autouse=True)
def _no_worker_of_a_dead_run_is_left(monkeypatch):
    """Shorten the wait for workers of a dead run, because no run in these tests has workers."""
    monkeypatch.setattr(lock, "SETTLE_S", 0.1)


@pytest.fixture(params=["local", "s3"])
def output(request, tmp_path):
    return str(tmp_path / "out") if request.param == "local" else join(request.getfixturevalue("bucket"), "out")


def hold(output, run_id="second", **options):
    """Return a context manager that holds the output as the run `run_id`."""
    return output_lock(output, run_id, Storage(), options.pop("on_lost", pytest.fail), **options)


def leave_lock(output, **changes):
    """Write the lock of a run that can no longer renew it. `changes` are fields of `Holder`."""
    holder = replace(Holder.this_process("first"), **changes)
    return Storage().create(join(output, LOCK), json.dumps(asdict(holder)).encode())


def exists(uri):
    try:
        return bool(Storage().stat(uri))
    except StorageError:
        return False


def dead_pid():
    """Return the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_run_is_told_who_holds_the_output_and_since_when(output):
    with hold(output, "first"), pytest.raises(OutputHeldError) as refused:
        hold(output).__enter__()

    me = Holder.this_process("first")
    assert f"is held by run first of '{me.user}' on '{me.host}' since {me.since[:10]}" in str(refused.value)
    assert "--break-lock" in str(refused.value)


def test_the_lock_is_released_at_the_end_and_after_an_error(output):
    with hold(output, "first"):
        assert exists(join(output, LOCK))
    with pytest.raises(ValueError, match="of the job"), hold(output):
        raise ValueError("of the job")

    assert not exists(join(output, LOCK))
    assert [info.uri for page in Storage().list(output) for info in page] == []


def test_a_holder_whose_process_is_gone_from_this_machine_is_replaced_at_once(output):
    leave_lock(output, pid=dead_pid())

    with hold(output):
        assert json.loads(bytes(Storage().get(join(output, LOCK)).data))["run_id"] == "second"


def test_a_process_id_of_another_machine_is_ignored(output):
    leave_lock(output, pid=dead_pid(), place="another machine")

    with pytest.raises(OutputHeldError):
        hold(output).__enter__()


def test_a_holder_that_was_silent_for_longer_than_its_lease_is_replaced(output):
    leave_lock(output, place="another machine")

    with hold(output, lease_s=-1):
        assert exists(join(output, LOCK))


def test_a_lock_is_broken_on_request(output):
    leave_lock(output)

    with hold(output, break_lock=True):
        assert json.loads(bytes(Storage().get(join(output, LOCK)).data))["run_id"] == "second"


@pytest.mark.parametrize("writer", ["first", "third"])
def test_a_lock_that_changes_meanwhile_is_broken_unless_another_run_took_it(output, monkeypatch, writer):
    leave_lock(output, run_id="first")
    replace, written = Storage.replace, []

    def replace_after_the_writer(storage, uri, data, etag):
        if uri.endswith(LOCK) and not written:
            found = storage.get(uri)
            written.append(json.loads(bytes(found.data)) | {"run_id": writer, "renewals": 7})
            replace(storage, uri, json.dumps(written[0]).encode(), found.etag)
        return replace(storage, uri, data, etag)

    monkeypatch.setattr(Storage, "replace", replace_after_the_writer)

    if writer == "first":  # it only renewed its lease
        with hold(output, break_lock=True):
            assert json.loads(bytes(Storage().get(join(output, LOCK)).data))["run_id"] == "second"
    else:
        with pytest.raises(OutputHeldError, match="is held by run third"), hold(output, break_lock=True):
            pass


def test_of_many_runs_that_take_over_at_once_one_wins(output):
    leave_lock(output, pid=dead_pid())
    start, end = threading.Barrier(8, timeout=120), threading.Barrier(8, timeout=120)
    won, refused = [], []

    def take_over(number):
        start.wait()
        try:
            with hold(output, f"run{number}"):
                won.append(number)
                end.wait()
        except OutputHeldError:
            refused.append(number)
            end.wait()

    threads = [threading.Thread(target=take_over, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(won), len(refused)) == (1, 7)


def test_a_lease_is_renewed_while_the_run_lives(output):
    with hold(output, lease_s=0.6):
        first = Storage().stat(join(output, LOCK)).etag
        renewed = threading.Event()
        while not renewed.wait(0.02):
            if Storage().stat(join(output, LOCK)).etag != first:
                renewed.set()
        assert json.loads(bytes(Storage().get(join(output, LOCK)).data))["run_id"] == "second"


def test_a_replaced_run_notices_it_and_leaves_the_new_lock_alone(output):
    told = threading.Event()
    with hold(output, "first", lease_s=0.6, on_lost=lambda reason: told.set()), hold(output, break_lock=True):
        assert told.wait(20)
        assert exists(join(output, LOCK))


def test_a_lock_that_cannot_be_read_is_taken_over(output):
    Storage().create(join(output, LOCK), b"{")

    with hold(output):
        assert json.loads(bytes(Storage().get(join(output, LOCK)).data))["run_id"] == "second"


def test_the_command_ends_with_code_3_and_writes_nothing(command, few_posters, tmp_path):
    with hold(str(tmp_path / "out"), "nightly"):
        code, out, err = command("tag", few_posters, tmp_path / "out")

    assert (code, out) == (3, "")
    line = err.splitlines()[-1]
    assert line.startswith(f"genretag: {tmp_path}/out is held by run nightly of ")
    assert "Traceback" not in err
    assert not list((tmp_path / "out").rglob("*.*"))


def test_a_worker_notices_that_its_run_was_replaced(output):
    with hold(output, "first", on_lost=print):
        require_held(output, "first", Storage())
        with hold(output, break_lock=True):
            require_held(output, "second", Storage())
            with pytest.raises(OutputHeldError, match="was taken over by run second, this run stops"):
                require_held(output, "first", Storage())
    with pytest.raises(OutputHeldError, match="let go of"):
        require_held(output, "second", Storage())


# A run that was suspended, and continues after another run has taken the output over


def take_over(output, run_id="second"):
    """Replace the lock by that of another, living run."""
    Storage().delete(join(output, LOCK))
    leave_lock(output, run_id=run_id)


def publish(output, run_id):
    """Write an empty run record."""
    Storage().put(join(output, "runs", run_id, "run.json"), b"{}")


def parts(output):
    return [info.uri for page in Storage().list(output) for info in page if info.uri.endswith(".parquet")]


def test_any_error_after_the_loss_becomes_an_error_about_the_loss(output):
    with pytest.raises(OutputHeldError, match="taken over by run second, this run stops"):  # noqa: SIM117
        with holding_output(output, "first", Storage()):
            take_over(output)
            raise FileNotFoundError("a shard that the second run has removed")


def test_an_error_of_a_run_that_holds_its_output_is_raised_unchanged(output):
    with pytest.raises(FileNotFoundError), holding_output(output, "first", Storage()):
        raise FileNotFoundError("a shard")


def test_the_error_names_the_run_that_took_over_after_that_run_has_ended(output):
    with hold(output, "20261101T010000Z-aaaa"):
        Storage().delete(join(output, LOCK))
        for run_id in ("20261031T010000Z-eeee", "20261101T010203Z-bbbb", "20261102T010000Z-cccc"):
            publish(output, run_id)

        with pytest.raises(OutputHeldError, match="by run 20261101T010203Z-bbbb, which has ended since, this run"):
            require_held(output, "20261101T010000Z-aaaa", Storage())


def test_a_run_notices_the_loss_after_the_other_run_has_released_the_output(output):
    told = []
    heard = threading.Event()

    def on_lost(why):
        told.append(why)
        heard.set()

    with hold(output, "first", lease_s=0.6, on_lost=on_lost):
        Storage().delete(join(output, LOCK))
        assert heard.wait(20)
    assert told == [f"{output} was taken over and let go of, this run stops; what it had finished is kept"]


class Suspended(Storage):
    """A store that loses the output to another run when a part file is written.

    If `before` is True, the loss comes before the write, otherwise after it.
    """

    def __init__(self, output, *, before):
        super().__init__()
        self.output, self.before = output, before

    def put(self, uri, data):
        is_part = uri.endswith(".parquet")
        if is_part and self.before:
            take_over(self.output)
        super().put(uri, data)
        if is_part and not self.before:
            take_over(self.output)


@pytest.mark.parametrize(("before", "kept"), [(True, 0), (False, 1)], ids=["late", "in time"])
def test_a_part_file_that_is_written_after_the_loss_is_removed(output, monkeypatch, before, kept):
    if not before:  # as if the file had been written long before the loss
        monkeypatch.setattr(part_files, "SETTLE_S", -60.0)
    night = a_run()
    table = pa.table({"uri": ["s3://films/a.jpg"]})
    with (
        pytest.raises(OutputHeldError, match="taken over by run second"),
        holding_output(output, night.run_id, Storage()),
    ):
        PartFiles(output, Suspended(output, before=before), night)._put("predictions", 0, table)

    assert len(parts(output)) == kept


def test_a_run_that_lost_its_output_removes_no_file_of_the_other(output):
    night = a_run()
    with pytest.raises(OutputHeldError), holding_output(output, night.run_id, Storage()):
        take_over(output)
        Storage().put(join(output, "predictions", "dt=2026-11-02", "part-second-00000.parquet"), b"PAR1")
        remove_late_parts(output, night.run_id, frozenset(), Storage())

    assert len(parts(output)) == 1


# Stores without working conditional writes


CONDITIONS = ("if-none-match", "if-match")


@pytest.fixture
def soon(monkeypatch):
    """Shorten the wait of the lock without conditional writes, because requests to the loopback address are fast."""
    monkeypatch.setattr(conditional, "WAIT_S", 1.5)


def locking(front, bucket, run_id, **options):
    """Return a context manager that holds an output in the bucket, through the front server."""
    return output_lock(f"{bucket}/out", run_id, Storage(front.url), options.pop("on_lost", pytest.fail), **options)


def keys_in(bucket):
    return [info.uri for page in Storage().list(bucket) for info in page]


def test_working_conditional_writes_are_detected_with_few_requests(s3_server, bucket):
    with store_front(s3_server.endpoint_url) as front:
        tried = lock_storage(f"{bucket}/out/_lock.json.run", storage := Storage(front.url))

    assert tried is storage
    assert Counter(request.method for request in front.requests) == {"PUT": 4, "GET": 2, "DELETE": 1}
    assert keys_in(bucket) == []


@pytest.mark.parametrize(
    "refusal",
    [
        ErrorAnswer(501, "NotImplemented", "A header you provided"),
        ErrorAnswer(400, "InvalidArgument", "If-None-Match"),
    ],
)
@pytest.mark.parametrize("conditions", [CONDITIONS, ("if-match",)], ids=["both", "If-Match"])
def test_a_store_that_refuses_conditional_writes_is_an_error_before_anything_is_written(
    moto_url, moto_bucket, refusal, conditions
):
    def answer(request):
        return refusal if request.method == "PUT" and set(conditions) & set(request.headers) else None

    with store_front(moto_url, answer) as front, pytest.raises(StorageError) as error:
        locking(front, moto_bucket, "run").__enter__()

    assert error.value.reason == "no_conditional_writes"
    assert f"{refusal.status} {refusal.code}" in str(error.value)
    assert "needs conditional writes (If-None-Match and If-Match" in str(error.value)
    assert keys_in(moto_bucket) == []


def test_a_store_that_refuses_every_write_is_not_blamed_on_conditional_writes(moto_url, moto_bucket):
    def answer(request):
        return ErrorAnswer(400, "InvalidRequest", "the bucket is read-only") if request.method == "PUT" else None

    with store_front(moto_url, answer) as front, pytest.raises(StorageError, match="read-only") as error:
        locking(front, moto_bucket, "run").__enter__()
    assert error.value.reason == "refused"


def test_if_conditional_writes_are_ignored_a_second_run_is_still_refused(moto_url, moto_bucket, soon, caplog):
    with store_front(moto_url, leave_out=CONDITIONS) as front:
        second = locking(front, moto_bucket, "second", lease_s=60)
        with (
            locking(front, moto_bucket, "first", lease_s=60),
            pytest.raises(OutputHeldError, match="held by run first"),
        ):
            second.__enter__()
        with locking(front, moto_bucket, "third", lease_s=60):
            assert "the store ignores conditional writes" in caplog.text
    assert keys_in(moto_bucket) == []


def test_if_conditional_writes_are_ignored_at_most_one_of_many_runs_holds_the_output(moto_url, moto_bucket, soon):
    won, refused, start, end = [], [], *(threading.Barrier(4, timeout=120) for _ in range(2))

    def hold_it(number):
        start.wait()
        try:
            with locking(front, moto_bucket, f"run{number}", lease_s=60):
                won.append(number)
                end.wait()
        except (OutputHeldError, StorageError) as error:  # on a busy machine, no write may be fast enough
            assert isinstance(error, OutputHeldError) or error.reason == "unavailable"
            refused.append(number)
            end.wait()

    with store_front(moto_url, leave_out=CONDITIONS) as front:
        threads = [threading.Thread(target=hold_it, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(won) <= 1, len(won) + len(refused)) == (True, 4)


def test_a_replaced_run_notices_it_without_conditional_writes_too(moto_url, moto_bucket, soon):
    told = threading.Event()
    with (
        store_front(moto_url, leave_out=CONDITIONS) as front,
        locking(front, moto_bucket, "first", lease_s=3, on_lost=lambda reason: told.set()),
    ):
        while not told.wait(0.2):  # a renewal that has already begun may overwrite this
            Storage().put(f"{moto_bucket}/out/{LOCK}", b"another's")
    assert bytes(Storage().get(f"{moto_bucket}/out/{LOCK}").data) == b"another's"


def test_without_conditional_writes_a_lock_that_took_too_long_to_write_is_removed(moto_url, moto_bucket, monkeypatch):
    monkeypatch.setattr(conditional, "WAIT_S", 0.0)
    with store_front(moto_url, leave_out=CONDITIONS) as front, pytest.raises(StorageError, match="no lock is sure"):
        locking(front, moto_bucket, "run").__enter__()
    assert keys_in(moto_bucket) == []


def test_a_renewal_of_the_lock_may_take_longer_than_its_creation(moto_bucket, monkeypatch):
    monkeypatch.setattr(conditional, "WAIT_S", 0.0)
    etag = Storage().create(uri := f"{moto_bucket}/lock", b"ours")

    renewed = TimedStorage(Storage()).replace(uri, b"ours still", etag)

    assert (bytes(Storage().get(uri).data), renewed) == (b"ours still", Storage().stat(uri).etag)
    with pytest.raises(StorageError, match="changed by another writer"):
        TimedStorage(Storage()).replace(uri, b"theirs", etag)


def test_a_setting_turns_conditional_writes_off(moto_url, moto_bucket, soon, monkeypatch):
    monkeypatch.setenv("GENRETAG_STORE_CONDITIONAL_WRITES", "off")

    def answer(request):
        return ErrorAnswer(501, "NotImplemented") if set(CONDITIONS) & set(request.headers) else None

    with store_front(moto_url, answer) as front, locking(front, moto_bucket, "run", lease_s=60):
        assert keys_in(moto_bucket) == [f"{moto_bucket}/out/{LOCK}"]


@pytest.mark.parametrize(
    ("call", "status", "reason"),
    [("replace", 404, "changed"), ("create", 304, "exists")],
    ids=["AWS, where it is gone", "MinIO before 2024"],
)
def test_answers_of_different_stores_to_a_failed_condition_are_understood(moto_url, moto_bucket, call, status, reason):
    etag = Storage().create(uri := f"{moto_bucket}/lock", b"ours")

    def answer(request):
        failed = request.method == "PUT" and set(CONDITIONS) & set(request.headers)
        return ErrorAnswer(status, "NoSuchKey" if status == 404 else "") if failed else None

    with store_front(moto_url, answer) as front, pytest.raises(StorageError) as error:
        getattr(Storage(front.url), call)(uri, b"theirs", *[etag][: call == "replace"])
    assert error.value.reason == reason


# Folders without hard links or file locks


@pytest.fixture(params=[errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS], ids=["FAT", "SMB", "FUSE"])
def no_links(request, monkeypatch):
    def link(*_arguments):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(local.os, "link", link)


def test_a_folder_without_hard_links_has_one_holder_too(no_links, tmp_path):
    with hold(str(tmp_path / "out"), "first"), pytest.raises(OutputHeldError, match="is held by run first"):
        hold(str(tmp_path / "out")).__enter__()
    assert list((tmp_path / "out").iterdir()) == []


def test_without_hard_links_only_one_of_many_creators_of_a_file_succeeds(no_links, tmp_path):
    start, won = threading.Barrier(8), []

    def create(number):
        start.wait()
        try:
            Storage().create(str(tmp_path / "note"), str(number).encode())
            won.append(number)
        except StorageError as error:
            assert error.reason == "exists"

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("note", str(won[0]))]


def test_without_hard_links_a_file_gets_its_second_name_by_a_copy(no_links, tmp_path):
    """A merged file needs this: it must be complete under both of its names."""
    (tmp_path / "merged").write_bytes(b"rows" * 1000)

    local.second_name(str(tmp_path / "merged"), str(tmp_path / "dt=2026-11-23" / "part"))

    assert (tmp_path / "merged").read_bytes() == (tmp_path / "dt=2026-11-23/part").read_bytes() == b"rows" * 1000
    assert len(list(tmp_path.rglob("*.tmp"))) == 0


def test_an_empty_lock_file_counts_as_held(tmp_path):
    (tmp_path / LOCK).touch()

    with pytest.raises(OutputHeldError, match="run of unknown name"):
        hold(str(tmp_path)).__enter__()
    with hold(str(tmp_path), lease_s=-1):
        assert json.loads((tmp_path / LOCK).read_text())["run_id"] == "second"


def test_a_folder_without_file_locks_is_refused_at_the_start(tmp_path, monkeypatch):
    """Lustre is mounted without file locks by default."""

    def flock(*_arguments):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(local.fcntl, "flock", flock)
    with pytest.raises(StorageError, match="has no file locks") as error:
        hold(str(tmp_path / "out")).__enter__()
    assert error.value.reason == "no_conditional_writes"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_user_without_a_name_is_named_by_number(monkeypatch):
    """A container may run under a user id that is not in /etc/passwd."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    script = "from genretag.output.lock import Holder; print(Holder.this_process('run').user)"
    line = ["unshare", "--user", "--map-user=54321", sys.executable, "-c", script]

    ended = subprocess.run(line, capture_output=True, text=True)
    if "unshare" in ended.stderr:
        pytest.skip("no user namespace can be made here")
    assert ended.stdout.strip() == "uid 54321", ended.stderr


def test_a_user_without_name_and_home_can_connect_to_a_cluster():
    """Without HOME and without an entry in /etc/passwd, there is no home folder, and so no file with a token."""
    script = "from genretag.runtime.ray_session import show_a_token_where_there_is_one as show; show(); print('shown')"
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    line = ["unshare", "--user", "--map-user=54321", sys.executable, "-c", script]

    ended = subprocess.run(line, capture_output=True, text=True, env=environment)
    if "unshare" in ended.stderr:
        pytest.skip("no user namespace can be made here")
    assert ended.stdout.strip() == "shown", ended.stderr
