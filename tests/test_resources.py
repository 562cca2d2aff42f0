"""The plan chooses the number of actors of each stage, and Ray can always place them."""

import pytest

from genretag.model import engines
from genretag.model.bundle import DEFAULT_BUNDLE, load_bundle
from genretag.runtime.ray_session import Cluster
from genretag.scoring import pipeline as resources
from genretag.scoring.actor_plan import WRITE_CPU
from genretag.scoring.settings import TagSettings
from genretag.storage import Storage

BUNDLE = load_bundle(str(DEFAULT_BUNDLE), Storage())


def plan_actors(cluster, settings):
    return resources.plan_actors(cluster, settings, BUNDLE)


@pytest.mark.parametrize("cpus", [1, 2, 4, 16, 96])
def test_on_one_node_all_actors_and_a_write_fit_at_once(cpus):
    plan = plan_actors(Cluster(cpus, 0), TagSettings())

    assert plan.fetch_actors == 0, "one kind of actor does everything"
    assert min(plan.predict_actors, plan.engine_threads) >= 1
    assert (plan.fetch_actors + plan.predict_actors) * plan.cpus_asked + WRITE_CPU <= cpus


@pytest.mark.parametrize("nodes", [2, 3, 10])
@pytest.mark.parametrize("fetch_actors_per_node", [None, 1])
def test_on_many_nodes_all_fit_when_half_of_them_are_lost(nodes, fetch_actors_per_node):
    fetch_actors = fetch_actors_per_node and fetch_actors_per_node * nodes
    plan = plan_actors(Cluster(4.0 * nodes, 0, nodes), TagSettings(fetch_actors=fetch_actors))

    slots = (nodes // 2) * int((4.0 - WRITE_CPU) / plan.cpus_asked)
    assert plan.fetch_actors + plan.predict_actors <= slots


@pytest.mark.parametrize("engine", ["jax", "tensorflow", "torch", "keras"])
def test_a_gpu_gets_one_engine_and_the_cpus_decode_for_it(engine):
    plan = plan_actors(Cluster(16, 1), TagSettings(engine=engine))

    assert (plan.engine, plan.predict_actors, plan.predict_gpus, plan.fetch_actors) == (engine, 1, 1.0, 15)
    assert (plan.precision, plan.batch_size) == ("native", 64)


@pytest.mark.parametrize(
    ("installed", "backend", "engine"),
    [
        ("keras tensorflow", None, "tensorflow"),
        ("keras tensorflow jax torch", None, "jax"),
        ("keras tensorflow jax torch", "torch", "torch"),
        ("keras torch", "jax", "torch"),
        ("torch", None, "openvino"),
        ("", None, "openvino"),
    ],
)
def test_on_a_gpu_an_installed_engine_is_chosen(monkeypatch, caplog, installed, backend, engine):
    monkeypatch.setattr(engines, "find_spec", lambda name: name in installed.split() or None)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if backend:
        monkeypatch.setenv("KERAS_BACKEND", backend)

    plan = plan_actors(Cluster(16, 1), TagSettings())

    assert (plan.engine, plan.predict_gpus) == (engine, 0.0 if engine == "openvino" else 1.0)
    assert ("pip install 'genretag[jax]'" in caplog.text) == (engine == "openvino")


def test_an_actor_on_a_gpu_asks_for_no_cpus():
    """On a mixed cluster, actors that fetch may fill the CPUs of the GPU node. So the predicting actor needs none."""
    plan = plan_actors(Cluster(16, 1, nodes=4), TagSettings())

    assert (plan.predict_gpus, plan.predict_cpus_asked) == (1.0, 0.0)
    assert [str(ask) for ask in plan.asks()] == [
        "an actor that fetches and decodes with 0.5 CPU",
        "an actor that predicts with 0 CPU and 1 GPU",
        "a task that writes with 0.25 CPU",
    ]


def test_on_cpus_the_default_is_int8_with_small_batches():
    plan = plan_actors(Cluster(16, 0), TagSettings())

    assert (plan.engine, plan.precision, plan.batch_size) == ("openvino", "int8", 8)
    assert plan_actors(Cluster(16, 1), TagSettings(precision="int8")).engine == "openvino", "no GPU computes in it"


def test_memory_limits_the_number_of_actors():
    assert plan_actors(Cluster(64, 0), TagSettings()).predict_actors == 16
    assert plan_actors(Cluster(64, 0, memory_bytes=6 * 2**30), TagSettings()).predict_actors == 6
    assert plan_actors(Cluster(64, 1, memory_bytes=6 * 2**30), TagSettings()).fetch_actors == 5
    assert plan_actors(Cluster(64, 0, memory_bytes=2**20), TagSettings()).predict_actors == 1


def test_settings_of_the_user_override_the_plan():
    plan = plan_actors(Cluster(16, 0), TagSettings(fetch_actors=3, predict_actors=2, engine_threads=1))

    assert (plan.fetch_actors, plan.predict_actors, plan.engine_threads) == (3, 2, 1)


def test_on_cpus_the_stages_have_separate_actors_only_on_request():
    assert plan_actors(Cluster(16, 0), TagSettings()).fetch_actors == 0
    assert plan_actors(Cluster(16, 0), TagSettings(fetch_actors=5)).fetch_actors == 5
    assert plan_actors(Cluster(16, 2), TagSettings(engine="openvino")).fetch_actors == 0
