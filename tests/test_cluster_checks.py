"""What a cluster is asked before a job begins: is there room, and do all nodes see what they are to read and write."""

import logging

import pytest

from genretag.errors import UsageError
from genretag.runtime import cluster as cluster_checks
from genretag.runtime.cluster import Ask, RoomWatch, require_room, require_seen


def node(alive=True, **resources):
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "fits"),
    [
        ([node(CPU=4.0)], True),
        ([node(CPU=1.0), node(CPU=1.0)], False),  # enough in all, and on none
        ([node(CPU=4.0, alive=False)], False),
        ([node(memory=1e9)], False),
        ([], False),
    ],
)
def test_one_actor_needs_one_node_with_room(nodes, fits):
    assert Ask("an actor", 2.0).fits(nodes) == fits


def test_several_workers_may_be_on_several_nodes():
    workers = Ask("workers", 2.0, count=3)

    assert workers.fits([node(CPU=4.0), node(CPU=3.0)])
    assert not workers.fits([node(CPU=3.0), node(CPU=3.0)])


def test_a_gpu_is_asked_for_without_cpus():
    predict = Ask("an actor that predicts", 0.0, 1.0)

    assert predict.fits([node(CPU=64.0), node(GPU=1.0)])
    assert not predict.fits([node(CPU=64.0)])


def test_no_room_is_said_with_what_there_is(ray_cluster):
    with pytest.raises(UsageError, match=r"no room for an actor with 0.5 CPU and 1 GPU: it has 1 node, with \d+ CPU"):
        require_room([Ask("an actor", 0.5, 1.0)], wait_s=0.1)


def test_room_that_is_there_is_not_waited_for(ray_cluster):
    require_room([Ask("an actor", 0.5), Ask("a task", 1.0)], wait_s=0)


@pytest.fixture
def nodes(monkeypatch):
    """What Ray says of the nodes, look by look; the last answer stays."""
    answers = []
    monkeypatch.setattr(cluster_checks, "_nodes", lambda: answers.pop(0) if len(answers) > 1 else answers[0])
    return answers


HUGE = Ask("an actor", 1000.0)


def test_a_node_is_no_room_that_is_named_but_has_died(ray_cluster, nodes):
    nodes[:] = [[node(CPU=1000.0)], [node(CPU=1000.0)], [node(CPU=1000.0, alive=False)]]

    with pytest.raises(UsageError, match="no room for an actor with 1000 CPU: it has 0 nodes"):
        require_room([HUGE], wait_s=0)


def test_where_nodes_are_busy_a_job_may_begin_to_wait(ray_cluster, nodes, monkeypatch, caplog):
    nodes[:] = [[node(CPU=1000.0)]]
    monkeypatch.setattr(cluster_checks, "NOTICED_S", 0.1)

    require_room([HUGE], wait_s=0)

    assert "the nodes with room for an actor with 1000 CPU are all busy" in caplog.text


def test_a_job_ends_that_loses_its_room_before_it_has_begun(nodes):
    nodes[:] = [[node(CPU=1000.0)], [], [node(CPU=1000.0)], []]
    watch, forever = RoomWatch([HUGE], wait_s=1e9, look_every_s=0), RoomWatch([HUGE], wait_s=0, look_every_s=0)

    for _ in range(3):
        watch.look(lambda: False)
    with pytest.raises(UsageError, match="no room for an actor with 1000 CPU"):
        forever.look(lambda: False)


def test_a_job_that_has_begun_waits_for_nodes_and_says_so_once_each_time(nodes, caplog):
    nodes[:] = [[], [], [node(CPU=1000.0)], []]
    watch = RoomWatch([HUGE], wait_s=0, look_every_s=0)

    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            watch.look(lambda: True)

    assert caplog.messages == ["the cluster has no room for an actor with 1000 CPU any more: waiting for nodes"] * 2


def test_on_one_node_nothing_is_hidden(ray_cluster):
    require_seen(["/no/such/folder", "s3://films"], "tagging")
