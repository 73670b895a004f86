import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.layers import Conv2d, ReLU, Sequential, parameters
from engine.models.networks import AutoencoderConfig, UNetConfig, build_network
from engine.optim import (
    SGD,
    Adam,
    LRSchedule,
    Muon,
    OptimizerGroup,
    ParameterEMA,
    clip_gradients,
    muon_with_adam,
    orthogonalise,
)
from tests.support.oracle import drawn, randomised


def network(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return randomised(Sequential(Conv2d(3, 4, 2, rng=rng), ReLU(), Conv2d(4, 2, 1, rng=rng)))


def scatter_gradients(net, seed):
    """Set gradients as a backward pass does, and return them in order."""
    for index, parameter in enumerate(parameters(net)):
        parameter.layer.grads[parameter.key] = drawn(*parameter.value.shape, seed=100 * seed + index)
    return [parameter.grad.clone() for parameter in parameters(net)]


def matrix(value):
    """A layer with one square weight."""
    side = len(value)
    layer = Conv2d(side, side, 1, bias=False)
    layer.params = {"weight": torch.tensor(value, dtype=torch.float64)}
    return layer


OPTIMISERS = {
    "sgd": lambda net: SGD(parameters(net), 0.1),
    "adam": lambda net: Adam(parameters(net), 0.1),
    "muon": lambda net: muon_with_adam(net, 0.1, 0.01),
}


# SGD and Adam against torch


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda s: SGD(s, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (lambda s: Adam(s, 0.01), lambda p: torch.optim.Adam(p, 0.01, (0.9, 0.99))),
        (lambda s: Adam(s, 0.3, (0.5, 0.7), 0.1), lambda p: torch.optim.Adam(p, 0.3, (0.5, 0.7), 0.1)),
    ],
)
def test_an_optimiser_takes_the_steps_of_torchs(ours, theirs):
    net = network()
    copies = [parameter.value.clone().requires_grad_() for parameter in parameters(net)]
    optimiser, oracle = ours(parameters(net)), theirs(copies)

    for step in range(5):
        for copy, gradient in zip(copies, scatter_gradients(net, step), strict=True):
            copy.grad = gradient
        optimiser.step()
        oracle.step()

        for parameter, copy in zip(parameters(net), copies, strict=True):
            torch.testing.assert_close(parameter.value, copy.detach())


def test_sgd_subtracts_lr_times_the_gradient():
    layer = matrix([[1.0, 2.0], [3.0, 4.0]])
    layer.grads = {"weight": torch.tensor([[1.0, 0.0], [-2.0, 10.0]], dtype=torch.float64)}

    SGD(parameters(layer), lr=0.5).step()

    assert layer.params["weight"].tolist() == [[0.5, 2.0], [4.0, -1.0]]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_schedules_factor_scales_a_step(name):
    whole, half = network(), network()
    start = [p.value.clone() for p in parameters(whole)]
    for net, factor in ((whole, 1.0), (half, 0.5)):
        scatter_gradients(net, 1)
        OPTIMISERS[name](net).step(factor)

    for before, one, other in zip(start, parameters(whole), parameters(half), strict=True):
        torch.testing.assert_close(other.value - before, (one.value - before) / 2)


# Muon


@pytest.mark.parametrize(("rows", "cols"), [(8, 8), (5, 12), (12, 5), (1, 6), (6, 1)])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.sampled_from([1e-6, 1.0, 1e6]))
def test_orthogonalising_keeps_the_singular_vectors(rows, cols, seed, scale):
    rank = min(rows, cols)
    u, _, v = torch.linalg.svd(drawn(rows, cols, seed=seed), full_matrices=False)
    values = torch.linspace(1.0, 0.05, rank, dtype=torch.float64)

    result = u.T @ orthogonalise(scale * (u * values) @ v) @ v.T

    evened = result.diagonal()
    assert evened.min() > 0.6
    assert evened.max() < 1.25
    torch.testing.assert_close(result, evened.diag())


def test_orthogonalising_a_transpose_gives_the_transpose():
    value = drawn(4, 9)

    torch.testing.assert_close(orthogonalise(value.T), orthogonalise(value).T)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_orthogonalising_is_newton_schulz_on_the_matrix_itself(dtype, most):
    value = drawn(96, 40) * torch.logspace(-3, 0, 40, dtype=torch.float64)
    plain = value / (value.norm() + 1e-7)
    for _ in range(5):
        gram = plain @ plain.T
        plain = 3.4445 * plain + (-4.7750 * gram + 2.0315 * gram @ gram) @ plain

    result = orthogonalise(value.to(dtype))

    assert result.dtype == dtype
    assert (result - plain).norm() < most * plain.norm()


def test_orthogonalising_nothing_gives_nothing():
    assert not orthogonalise(torch.zeros(3, 4)).any()


def test_muon_steps_along_an_orthogonal_gradient_by_lr():
    layer = matrix([[0.0, 0.0], [0.0, 0.0]])
    muon = Muon(parameters(layer), lr=0.1)
    layer.grads = {"weight": torch.tensor([[0.0, 3.0], [-3.0, 0.0]], dtype=torch.float64)}

    muon.step()

    # 1/√2, where the norm puts both singular values, goes through x ← 3.4445 x - 4.775 x³ + 2.0315 x⁵ five times.
    x = 0.5**0.5
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    expected = torch.tensor([[0.0, -0.1 * x], [0.1 * x, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(layer.params["weight"], expected)
    assert 0.7 < x < 1.2


def test_muons_momentum_looks_one_step_ahead():
    layer = matrix([[0.0]])
    muon = Muon(parameters(layer), lr=1.0, momentum=0.5)
    signs = []
    for gradient in (4.0, -1.5):
        layer.grads = {"weight": torch.tensor([[gradient]], dtype=torch.float64)}
        before = layer.params["weight"].item()
        muon.step()
        signs.append(math.copysign(1, layer.params["weight"].item() - before))

    # The momentum is 4, then 2 - 1.5; one step ahead of it are 4 + 2 and -1.5 + 0.25. Only their signs are left.
    assert signs == [-1, 1]
    assert muon.velocity[0].item() == 0.5


@pytest.mark.parametrize(("inputs", "outputs", "scale"), [(2, 8, 2.0), (8, 2, 1.0), (4, 4, 1.0)])
def test_muons_step_grows_with_outputs_per_input(inputs, outputs, scale):
    layer = randomised(Conv2d(inputs, outputs, 1, bias=False))
    layer.params["weight"].zero_()
    layer.grads = {"weight": drawn(inputs, outputs)}

    Muon(parameters(layer), lr=1.0).step()

    torch.testing.assert_close(layer.params["weight"], -scale * orthogonalise(layer.grads["weight"] * 1.95))


def test_muons_weight_decay_shrinks_the_weights_by_lr():
    layers = [matrix([[4.0, -2.0], [1.0, 3.0]]) for _ in range(2)]
    for layer, weight_decay in zip(layers, (0.0, 0.5), strict=True):
        layer.grads = {"weight": drawn(2, 2)}
        Muon(parameters(layer), lr=0.1, weight_decay=weight_decay).step(0.4)

    plain, decayed = (layer.params["weight"] for layer in layers)
    # 0.1 x 0.4 x 0.5 of what the weights were.
    torch.testing.assert_close(plain - decayed, 0.02 * torch.tensor([[4.0, -2.0], [1.0, 3.0]]).double())


@pytest.mark.parametrize("spec", [UNetConfig((4, 6), (1, 1, 1)), AutoencoderConfig(8)])
def test_the_first_and_the_last_layer_and_the_biases_are_adams(spec):
    net = build_network(spec)
    names = [p.name for p in parameters(net)]

    muon, adam = muon_with_adam(net, 0.006, 0.001).optimisers

    ends = (names[0].rpartition(".")[0], names[-1].rpartition(".")[0])
    inside = [n for n in names if n.endswith("weight") and n.rpartition(".")[0] not in ends]
    assert inside
    assert [parameter.name for parameter in muon.parameters] == inside
    assert [parameter.name for parameter in adam.parameters] == [name for name in names if name not in inside]


# State


@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimiser_goes_on_from_its_state_exactly(name):
    def run(net, optimiser, steps):
        for step in steps:
            scatter_gradients(net, step)
            optimiser.step()

    whole, parted, resumed = network(), network(), network()
    run(whole, OPTIMISERS[name](whole), range(6))
    first = OPTIMISERS[name](parted)
    run(parted, first, range(3))
    for parameter, source in zip(parameters(resumed), parameters(parted), strict=True):
        parameter.value.copy_(source.value)

    second = OPTIMISERS[name](resumed)
    second.load_state({key: value.clone() for key, value in first.state().items()})
    run(resumed, second, range(3, 6))

    for one, other in zip(parameters(whole), parameters(resumed), strict=True):
        assert torch.equal(one.value, other.value)


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_a_state_that_lacks_a_tensor_is_refused_by_name(name):
    optimiser = OPTIMISERS[name](network())
    state = optimiser.state()
    missing = next(iter(reversed(state)))
    del state[missing]

    with pytest.raises(KeyError, match=missing):
        optimiser.load_state(state)


def test_an_optimizer_group_keeps_the_states_of_all():
    net = network()
    both = OptimizerGroup(Adam(list(parameters(net))[:2]), Muon(list(parameters(net))[2:3]))

    assert set(both.state()) == {
        "adam.steps",
        *(f"adam.{moment}.0.{key}" for moment in ("first", "second") for key in ("weight", "bias")),
        "muon.2.weight",
    }


# Clipping


def test_clipping_scales_all_gradients_and_returns_the_norm():
    net = network()
    gradients = scatter_gradients(net, 1)
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))

    assert clip_gradients(list(parameters(net)), 0.5) == pytest.approx(norm)

    for parameter, gradient in zip(parameters(net), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient * (0.5 / norm))


def test_a_norm_below_the_limit_is_left_alone():
    net = network()
    gradients = scatter_gradients(net, 1)

    clip_gradients(list(parameters(net)), 1e3)

    for parameter, gradient in zip(parameters(net), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)


# The schedule


@pytest.mark.parametrize(
    ("step", "done", "factor"),
    [(1, 0.0, 0.1), (5, 0.0, 0.5), (10, 0.1, 1.0), (50, 0.75, 1.0), (80, 0.875, 0.5), (100, 1.0, 0.0)],
)
def test_the_factor_warms_up_stays_and_falls_to_zero(step, done, factor):
    assert LRSchedule(warmup=10, decay=0.25).factor(step, done) == pytest.approx(factor)


def test_without_warm_up_and_decay_the_factor_is_always_one():
    schedule = LRSchedule(0, 0.0)

    assert [schedule.factor(step, done) for step, done in ((1, 0.0), (9, 0.9), (10, 1.0))] == [1, 1, 1]


def test_a_run_that_takes_longer_than_planned_never_climbs():
    assert LRSchedule(0, 0.5).factor(10, 1.1) == 0


def test_the_schedule_knows_when_the_factor_begins_to_fall():
    schedule = LRSchedule(0, 0.25)

    assert [schedule.decaying(done) for done in (0.0, 0.75, 0.76, 1.0)] == [False, False, True, True]


# The average


def test_the_average_forgets_its_start_faster_than_its_decay():
    layer = matrix([[8.0]])
    average = ParameterEMA(parameters(layer), decay=0.999)
    layer.params["weight"].fill_(19.0)

    average.update()

    # The first update keeps 1 / 11 of the start.
    assert average.values[0].item() == pytest.approx(8 / 11 + 19 * 10 / 11)


def test_in_the_long_run_the_average_decays_as_it_is_told():
    layer = matrix([[0.0]])
    average = ParameterEMA(parameters(layer), decay=0.9)
    average.updates = 1000
    layer.params["weight"].fill_(1.0)

    average.update()

    assert average.values[0].item() == pytest.approx(0.1)


def test_swapping_twice_leaves_everything_as_it_was():
    net = network()
    average = ParameterEMA(parameters(net), 0.9)
    start = [p.value.clone() for p in parameters(net)]
    for parameter in parameters(net):
        parameter.value.add_(1.0)
    average.update()
    trained, averaged = (
        [p.value.clone() for p in parameters(net)],
        [v.clone() for v in average.values],
    )

    average.swap()
    during = [p.value.clone() for p in parameters(net)]
    average.swap()

    assert all(map(torch.equal, during, averaged))
    assert all(map(torch.equal, [parameter.value for parameter in parameters(net)], trained))
    assert not torch.equal(averaged[0], start[0])


def test_a_look_at_the_average_does_not_change_training():
    looked, unlooked = network(), network()
    for net in (looked, unlooked):
        optimiser, average = Adam(parameters(net), 0.1), ParameterEMA(parameters(net), 0.9)
        for step in range(3):
            scatter_gradients(net, step)
            optimiser.step()
            average.update()
            if net is looked:
                average.swap()
                average.swap()

    for one, other in zip(parameters(looked), parameters(unlooked), strict=True):
        assert torch.equal(one.value, other.value)


def test_an_average_goes_on_from_its_state():
    net = network()
    average = ParameterEMA(parameters(net), 0.9)
    for parameter in parameters(net):
        parameter.value.add_(1.0)
    average.update()
    other = ParameterEMA(parameters(network(seed=1)), 0.9)

    other.load_state(average.state())

    assert other.updates == average.updates
    assert all(map(torch.equal, other.values, average.values))
