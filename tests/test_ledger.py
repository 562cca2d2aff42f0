"""A poster that hangs or crashes its decoder costs an actor or two, and ends as a failure row."""

from outputs import rows
from PIL import Image

from genretag.errors import Failure
from genretag.tagging.ledger import Ledger


def test_a_new_step_is_done_all_at_once():
    assert not Ledger().begin("step").careful


def test_a_step_that_killed_its_actor_goes_carefully_the_next_time():
    ledger = Ledger()
    ledger.begin("step")

    assert ledger.begin("step").careful
    assert not ledger.begin("another").careful


def test_a_step_that_ended_and_is_done_again_is_new():
    ledger = Ledger()
    ledger.begin("step")
    ledger.end("step")

    assert not ledger.begin("step").careful


def test_a_poster_that_two_actors_died_over_is_given_up():
    ledger = Ledger()
    ledger.begin("step")
    for _ in range(2):
        assert ledger.begin("step").given_up == {}
        ledger.hold("step", "innocent.jpg")
        ledger.hold("step", "deadly.jpg")

    given_up = ledger.begin("step").given_up
    assert given_up == {"deadly.jpg": Failure("decode", "crashed", "2 processes ended while they decoded it")}


def test_two_deaths_over_two_posters_are_chance():
    ledger = Ledger()
    ledger.begin("step")
    for uri in ("a.jpg", "b.jpg"):
        ledger.begin("step")
        ledger.hold("step", uri)

    assert ledger.begin("step").given_up == {}


def test_a_poster_that_takes_longer_than_its_deadline_loses_its_actor_and_not_the_job(run, few_posters, tmp_path):
    Image.effect_noise((9_000, 9_000), 60).save(few_posters / "slow.jpg", progressive=True, quality=90)

    record = run(few_posters, tmp_path / "out", decode_timeout_s=0.4)

    assert (record.listed, record.scored, record.failures) == (13, 12, {"decode: timeout": 1})
    failed = rows(tmp_path / "out", "failures")
    assert [(row["poster_id"], row["message"]) for row in failed] == [("slow", "not decoded within 0.4 s")]
