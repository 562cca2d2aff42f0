"""One writer for one output, in a folder and in a bucket; a dead holder is replaced, a living one never."""

import json
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import pyarrow as pa
import pytest
from nights import a_night

from genretag.errors import OutputHeldError
from genretag.storage import Storage, StorageError, join
from genretag.tagging import lock, part_files
from genretag.tagging.lock import LOCK, Holder, output_lock, require_held
from genretag.tagging.only_writer import only_writer
from genretag.tagging.part_files import PartFiles, remove_late_parts


@pytest.fixture(autouse=True)
def _no_worker_of_a_dead_run_is_left(monkeypatch):
    """Nothing is to be waited for here: no run in these tests has workers."""
    monkeypatch.setattr(lock, "SETTLE_S", 0.1)


@pytest.fixture(params=["local", "s3"])
def output(request, tmp_path):
    return str(tmp_path / "out") if request.param == "local" else join(request.getfixturevalue("bucket"), "out")


def hold(output, run_id="second", **options):
    return output_lock(output, run_id, Storage(), options.pop("on_lost", pytest.fail), **options)


def leave_lock(output, **changes):
    """Leaves a lock as a run would that can no longer renew it."""
    holder = replace(Holder.this_process("first"), **changes)
    return Storage().create(join(output, LOCK), json.dumps(asdict(holder)).encode())


def exists(uri):
    try:
        return bool(Storage().stat(uri))
    except StorageError:
        return False


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_run_is_told_who_holds_the_output_and_since_when(output):
    with hold(output, "first"), pytest.raises(OutputHeldError) as refused:
        hold(output).__enter__()

    me = Holder.this_process("first")
    assert f"is held by run first of '{me.user}' on '{me.host}' since {me.since[:10]}" in str(refused.value)
    assert "--break-lock" in str(refused.value)


def test_it_is_let_go_of_at_the_end_and_after_an_error(output):
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


def test_a_process_number_of_another_machine_says_nothing(output):
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


def test_of_many_runs_that_take_over_at_once_one_wins(output):
    leave_lock(output, pid=dead_pid())
    start, end = threading.Barrier(8), threading.Barrier(8)
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


def test_a_run_that_was_replaced_is_told_and_leaves_the_new_lock_alone(output):
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


def test_a_worker_learns_that_its_run_has_been_replaced(output):
    with hold(output, "first", on_lost=print):
        require_held(output, "first", Storage())
        with hold(output, break_lock=True):
            require_held(output, "second", Storage())
            with pytest.raises(OutputHeldError, match="was taken over by run second, this run stops"):
                require_held(output, "first", Storage())
    with pytest.raises(OutputHeldError, match="let go of"):
        require_held(output, "second", Storage())


# A run that was suspended, and goes on after another has taken its place


def take_over(output, run_id="second"):
    """Puts the lock of a living run in the place of the one that is there."""
    Storage().delete(join(output, LOCK))
    leave_lock(output, run_id=run_id)


def publish(output, run_id):
    Storage().put(join(output, "runs", run_id, "run.json"), b"{}")


def parts(output):
    return [info.uri for page in Storage().list(output) for info in page if info.uri.endswith(".parquet")]


def test_whatever_goes_wrong_after_the_loss_is_explained_by_it(output):
    with pytest.raises(OutputHeldError, match="taken over by run second, this run stops"):  # noqa: SIM117
        with only_writer(output, "first", Storage()):
            take_over(output)
            raise FileNotFoundError("a shard that the second run has removed")


def test_an_error_of_a_run_that_holds_its_output_stays_what_it_is(output):
    with pytest.raises(FileNotFoundError), only_writer(output, "first", Storage()):
        raise FileNotFoundError("a shard")


def test_who_took_over_is_told_though_that_run_has_ended(output):
    with hold(output, "20261101T010000Z-aaaa"):
        Storage().delete(join(output, LOCK))
        for run_id in ("20261031T010000Z-eeee", "20261101T010203Z-bbbb", "20261102T010000Z-cccc"):
            publish(output, run_id)

        with pytest.raises(OutputHeldError, match="by run 20261101T010203Z-bbbb, which has ended since, this run"):
            require_held(output, "20261101T010000Z-aaaa", Storage())


def test_a_run_learns_of_the_loss_though_the_other_has_let_go_of_the_output(output):
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
    """Loses the output in the moment in which a part file is written: before it is there, or when it has long been."""

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
def test_a_part_file_that_comes_after_the_loss_is_taken_back(output, monkeypatch, before, kept):
    if not before:  # the store's clock goes on while the run is suspended
        monkeypatch.setattr(part_files, "SETTLE_S", -60.0)
    night = a_night()
    table = pa.table({"uri": ["s3://films/a.jpg"]})
    with (
        pytest.raises(OutputHeldError, match="taken over by run second"),
        only_writer(output, night.run_id, Storage()),
    ):
        PartFiles(output, Suspended(output, before=before), night, 500)._put("predictions", 0, table)

    assert len(parts(output)) == kept


def test_a_run_that_lost_its_output_removes_no_file_of_the_other(output):
    night = a_night()
    with pytest.raises(OutputHeldError), only_writer(output, night.run_id, Storage()):
        take_over(output)
        Storage().put(join(output, "predictions", "dt=2026-11-02", "part-second-00000.parquet"), b"PAR1")
        remove_late_parts(output, night.run_id, frozenset(), Storage())

    assert len(parts(output)) == 1
