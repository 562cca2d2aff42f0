"""What a cluster is asked before a job begins: is there room, and do all nodes see what they are to read and write."""

import pytest

from genretag.cluster_checks import Ask, require_room, require_seen
from genretag.errors import UsageError


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


def test_on_one_node_nothing_is_hidden(ray_cluster):
    require_seen(["/no/such/folder", "s3://films"], "tagging")
