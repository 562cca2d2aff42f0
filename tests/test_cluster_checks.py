"""Before a job begins, the cluster must have room for its actors, and all nodes must see its folders."""

import logging

import pytest

from genretag.errors import UsageError
from genretag.runtime import cluster as cluster_checks
from genretag.runtime.cluster import Ask, RoomWatch, require_room, require_seen


def node(alive=True, **resources):
    """Return a node as Ray lists it."""
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "fits"),
    [
        ([node(CPU=4.0)], True),
        ([node(CPU=1.0), node(CPU=1.0)], False),  # enough CPUs in total, but not on any node
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


def test_a_cluster_without_room_is_refused_with_its_size(ray_cluster):
    with pytest.raises(UsageError, match=r"no room for an actor with 0.5 CPU and 1 GPU: it has 1 node, with \d+ CPU"):
        require_room([Ask("an actor", 0.5, 1.0)], wait_s=0.1)


def test_a_cluster_with_room_is_accepted_at_once(ray_cluster):
    require_room([Ask("an actor", 0.5), Ask("a task", 1.0)], wait_s=0)


@pytest.fixture
def nodes(monkeypatch):
    """Return a list of the answers that Ray gives, one after the other, about its nodes. The last answer stays."""
    answers = []
    monkeypatch.setattr(cluster_checks, "_nodes", lambda: answers.pop(0) if len(answers) > 1 else answers[0])
    return answers


HUGE = Ask("an actor", 1000.0)


def test_a_dead_node_that_ray_still_lists_does_not_count(ray_cluster, nodes):
    nodes[:] = [[node(CPU=1000.0)], [node(CPU=1000.0)], [node(CPU=1000.0, alive=False)]]

    with pytest.raises(UsageError, match="no room for an actor with 1000 CPU: it has 0 nodes"):
        require_room([HUGE], wait_s=0)


def test_a_job_may_begin_and_wait_if_nodes_with_room_are_busy(ray_cluster, nodes, monkeypatch, caplog):
    nodes[:] = [[node(CPU=1000.0)]]
    monkeypatch.setattr(cluster_checks, "NOTICED_S", 0.1)

    require_room([HUGE], wait_s=0)

    assert "the nodes with room for an actor with 1000 CPU are all busy" in caplog.text


def test_a_job_that_loses_its_room_before_its_first_poster_ends(nodes):
    nodes[:] = [[node(CPU=1000.0)], [], [node(CPU=1000.0)], []]
    watch, forever = RoomWatch([HUGE], wait_s=1e9, look_every_s=0), RoomWatch([HUGE], wait_s=0, look_every_s=0)

    for _ in range(3):
        watch.look(lambda: False)
    with pytest.raises(UsageError, match="no room for an actor with 1000 CPU"):
        forever.look(lambda: False)


def test_a_job_that_has_begun_waits_for_nodes_and_warns_once_per_loss(nodes, caplog):
    nodes[:] = [[], [], [node(CPU=1000.0)], []]
    watch = RoomWatch([HUGE], wait_s=0, look_every_s=0)

    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            watch.look(lambda: True)

    assert caplog.messages == ["the cluster has no room for an actor with 1000 CPU any more: waiting for nodes"] * 2


def test_on_one_node_folders_are_not_checked(ray_cluster):
    require_seen(["/no/such/folder", "s3://films"], "tagging")
