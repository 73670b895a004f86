import torch

from engine.data.rng import generator_on, seeded_generator


def first(*numbers):
    return int(torch.randint(2**60, (), generator=seeded_generator(*numbers)))


def test_the_same_numbers_name_the_same_generator():
    assert first(3, 7) == first(3, 7)


def test_other_numbers_name_others_even_where_their_lower_32_bits_agree():
    numbers = [(seed, step) for seed in (-1, 0, 1, 2**32, 2**40) for step in (0, 1, 2**32, 2**40)]

    assert len({first(*pair) for pair in [*numbers, (0, 0, 1), (1, 0, 1)]}) == len(numbers) + 2


def test_a_generator_goes_on_by_itself_where_it_is_on_the_device():
    rng = seeded_generator(1)

    assert generator_on(torch.device("cpu"), rng) is rng
