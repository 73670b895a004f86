"""How many workers a cluster runs."""

import pytest

from engine.batch.cluster.plan import ClusterOptions, Node, WorkerPlan, plan_workers


@pytest.mark.parametrize(
    ("nodes", "options", "plan"),
    [
        ([Node(2)], {}, WorkerPlan(1, 2, 0)),
        ([Node(16), Node(8)], {}, WorkerPlan(6, 4, 0)),
        ([Node(0), Node(8)], {}, WorkerPlan(2, 4, 0)),
        ([Node(8)], {"workers": 1}, WorkerPlan(1, 8, 0)),
        ([Node(8), Node(8)], {"workers": 3}, WorkerPlan(3, 4, 0)),
        ([Node(8, 2), Node(8, 1)], {}, WorkerPlan(3, 4, 1)),
        ([Node(8, 1)], {"gpus": 0.5}, WorkerPlan(2, 4, 0.5)),
        ([Node(8, 1)], {"gpus": 0}, WorkerPlan(2, 4, 0)),
    ],
)
def test_workers_share_the_cluster(nodes, options, plan):
    assert plan_workers(nodes, ClusterOptions(**options), "auto") == plan


def test_the_device_decides_over_gpus():
    assert plan_workers([Node(8, 1)], ClusterOptions(), "cpu").gpus == 0
    with pytest.raises(ValueError, match="the cluster has GPUs for 0 workers with 1 each, not for 1"):
        plan_workers([Node(8)], ClusterOptions(), "cuda")


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (WorkerPlan(1, 2, 0), "1 worker, on 2 CPUs"),
        (WorkerPlan(3, 1, 0.5), "3 workers, each on 1 CPU and 0.5 GPU"),
        (WorkerPlan(2, 4, 2), "2 workers, each on 4 CPUs and 2 GPUs"),
    ],
)
def test_a_plan_is_told_in_words(plan, words):
    assert plan.words == words


def test_more_workers_than_fit_are_refused():
    with pytest.raises(ValueError, match="has 4 CPUs, too few for 5 workers; give fewer --workers"):
        plan_workers([Node(2), Node(2)], ClusterOptions(workers=5), "auto")
    with pytest.raises(ValueError, match=r"GPUs for 2 workers with 0\.5 each, not for 3"):
        plan_workers([Node(8, 1)], ClusterOptions(workers=3, gpus=0.5), "auto")
