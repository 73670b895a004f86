import torch

from engine.data.rng import generator_on, seeded_generator, uniform


def first(*numbers):
    return int(torch.randint(2**60, (), generator=seeded_generator(*numbers)))


def test_the_same_numbers_give_the_same_generator():
    assert first(3, 7) == first(3, 7)


def test_other_numbers_give_others_even_with_equal_low_bits():
    numbers = [(seed, step) for seed in (-1, 0, 1, 2**32, 2**40) for step in (0, 1, 2**32, 2**40)]

    assert len({first(*pair) for pair in [*numbers, (0, 0, 1), (1, 0, 1)]}) == len(numbers) + 2


def test_a_generator_on_the_device_is_used_itself():
    rng = seeded_generator(1)

    assert generator_on(torch.device("cpu"), rng) is rng


def test_uniform_numbers_lie_between_the_limits():
    numbers = uniform(-2.0, 6.0, (50, 100), seeded_generator(1))

    assert numbers.shape == (50, 100)
    assert -2 <= numbers.min() < -1.9
    assert 5.9 < numbers.max() < 6
