"""A poster that hangs or crashes its decoder costs one or two actors, and becomes a failure row."""

import time
from contextlib import suppress

import psutil
import pyarrow as pa
import ray
from outputs import rows
from slow_poster import save_slow_poster

from genretag.errors import Failure
from genretag.model.bundle import load_bundle
from genretag.output.run_record import Outcome
from genretag.scoring.actor_plan import plan_actors
from genretag.scoring.actors import FetchOptions, Score
from genretag.scoring.inventory import inventory_of
from genretag.scoring.settings import TagSettings
from genretag.scoring.step_ledger import Ledger, last_outcome, open_ledger


def test_a_new_step_decodes_its_posters_in_parallel():
    assert not Ledger(allowed_failures=100).begin("step").careful


def test_a_step_that_killed_its_actor_is_decoded_carefully_the_next_time():
    ledger = Ledger(allowed_failures=100)
    ledger.begin("step")

    assert ledger.begin("step").careful
    assert not ledger.begin("another").careful


def test_a_step_that_ended_and_is_repeated_is_not_decoded_carefully():
    ledger = Ledger(allowed_failures=100)
    ledger.begin("step")
    ledger.end("step")

    assert not ledger.begin("step").careful


def test_a_poster_that_two_actors_died_over_is_given_up():
    ledger = Ledger(allowed_failures=100)
    ledger.begin("step")
    for _ in range(2):
        assert ledger.begin("step").given_up == {}
        ledger.hold("step", "innocent.jpg")
        ledger.hold("step", "deadly.jpg")

    given_up = ledger.begin("step").given_up
    assert given_up == {"deadly.jpg": Failure("decode", "crashed", "2 processes ended while they decoded it")}


def test_no_poster_is_given_up_after_two_deaths_over_different_posters():
    ledger = Ledger(allowed_failures=100)
    ledger.begin("step")
    for uri in ("a.jpg", "b.jpg"):
        ledger.begin("step")
        ledger.hold("step", uri)

    assert ledger.begin("step").given_up == {}


def test_a_poster_that_takes_longer_than_its_deadline_loses_its_actor_and_not_the_job(run, few_posters, tmp_path):
    limit_s = save_slow_poster(few_posters / "slow.jpg")

    record = run(few_posters, tmp_path / "out", decode_timeout_s=limit_s)

    assert (record.listed, record.scored, record.failures) == (13, 12, {"decode: timeout": 1})
    failed = rows(tmp_path / "out", "failures")
    assert [(row["poster_id"], row["message"]) for row in failed] == [("slow", f"not decoded within {limit_s:g} s")]


def test_a_step_that_is_done_again_replaces_its_failures_and_does_not_add_to_them():
    ledger = Ledger(allowed_failures=5)
    ledger.report("a", Outcome(10, {"decode: corrupt": 2, "fetch: timeout": 3}))
    ledger.report("b", Outcome(12, {"decode: other_file": 4}))

    ledger.report("a", Outcome(12, {"decode: corrupt": 3}))

    assert ledger.outcome() == Outcome(24, {"decode: corrupt": 3, "decode: other_file": 4})
    assert ledger.read(0)[0] == {"scored": 24, "failed": 3, "other_files": 4}
    assert not ledger.begin("c").stopped


def test_no_step_begins_once_more_failed_than_is_allowed():
    ledger = Ledger(allowed_failures=2)
    ledger.report("a", Outcome(0, {"decode: corrupt": 2, "decode: other_file": 9}))
    assert not ledger.begin("b").stopped

    ledger.report("b", Outcome(0, {"fetch: not_found": 1}))

    assert ledger.begin("c").stopped


def test_no_step_begins_after_an_error_that_hits_every_poster():
    ledger = Ledger(allowed_failures=0)
    ledger.stop("the bucket is gone")

    assert ledger.begin("a").stopped
    assert ledger.read(0)[0] == {"fatal": "the bucket is gone"}


def test_posters_that_are_scored_again_count_once(ray_cluster, small_bundle, storage, few_posters):
    """If a node is lost, Ray repeats steps whose rows were reported already."""
    bundle = load_bundle(small_bundle, storage)
    for name in ("broken-1.jpg", "broken-2.jpg", "broken-3.jpg"):
        (few_posters / name).write_bytes(b"no picture")
    ledger = open_ledger(allowed_failures=4)
    plan = plan_actors(ray_cluster, TagSettings(engine="openvino"), bundle)
    fetch = (storage, bundle.rule, FetchOptions(threads=2, decode_timeout_s=60.0, one_bucket=False), ledger)
    score, block = Score(fetch, plan, ray.put(bundle), []), inventory_of([str(file) for file in few_posters.iterdir()])

    first, second = (list(score(block)) for _ in range(2))

    assert pa.concat_tables(first).drop_columns(["at"]) == pa.concat_tables(second).drop_columns(["at"])
    assert last_outcome(ledger) == Outcome(12, {"decode: not_an_image": 3})
    assert not ray.get(ledger.stopped.remote())


def test_the_process_of_the_ledger_ends_with_the_job(run, few_posters, tmp_path):
    def ledgers():
        found = set()
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):  # the process has just ended
                if "".join(process.cmdline()[:1]).startswith("ray::Ledger"):
                    found.add(process.pid)
        return found

    before = ledgers()

    run(few_posters, tmp_path / "out")

    deadline = time.monotonic() + 30
    while (left := ledgers() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == set()
