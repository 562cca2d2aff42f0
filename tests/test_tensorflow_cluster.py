"""Ray Train starts workers that TensorFlow can join to a cluster. On a local Ray, it starts no helpers."""

import json
import os
import sys

import pytest
import ray

from genretag.runtime.compat import without_train_helpers


def _actors():
    """Return the class names of all actors that Ray has ever started, by actor id."""
    return {actor: facts["ActorClassName"] for actor, facts in ray._private.state.actors().items()}


def _writing_environment(folder):
    """Return a training function that writes what a worker finds in its process when training begins."""

    def write(_config):  # nested, because workers cannot import this module
        rank = ray.train.get_context().get_world_rank()
        found = {"tensorflow": "tensorflow" in sys.modules, "onednn": os.environ["TF_ENABLE_ONEDNN_OPTS"]}
        found |= {"config": json.loads(os.environ["TF_CONFIG"])}
        (folder / f"{rank}.json").write_text(json.dumps(found))

    return write


@pytest.fixture(scope="module")
def started(ray_cluster, tmp_path_factory):
    """Run two workers. Return what each found, in order of rank, and the class names of the actors of the run."""
    import ray.train
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from genretag.training.tensorflow_cluster import TensorflowCluster

    folder, before = tmp_path_factory.mktemp("workers"), _actors()
    trainer = DataParallelTrainer(
        _writing_environment(folder),
        train_loop_config={},
        backend_config=TensorflowCluster(),
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(name="run", storage_path=str(folder)),
    )
    with without_train_helpers():
        trainer.fit()
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return found, sorted(name for actor, name in _actors().items() if actor not in before)


def test_workers_know_their_rank_and_all_addresses(started):
    configs = [worker["config"] for worker in started[0]]

    assert [config["task"] for config in configs] == [{"type": "worker", "index": rank} for rank in range(2)]
    assert configs[0]["cluster"] == configs[1]["cluster"]
    addresses = configs[0]["cluster"]["worker"]
    assert len(set(addresses)) == 2
    assert all(address.rpartition(":")[2].isdigit() for address in addresses)


def test_workers_choose_onednn_before_they_import_tensorflow(started):
    assert [(worker["onednn"], worker["tensorflow"]) for worker in started[0]] == [("1", False)] * 2


def test_a_local_ray_starts_none_of_ray_trains_helper_actors(started):
    """The synchronisation actor is no helper: workers meet there when they report."""
    needed = ["RayTrainWorker", "RayTrainWorker", "SynchronizationActor", "TrainController"]

    assert [name.rpartition(".")[2] for name in started[1]] == needed
