from unittest.mock import patch

import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.layers import strips
from engine.layers.strips import empty

CPU = torch.device("cpu")


@given(st.integers(1, 7), st.integers(1, 40), st.integers(1, 2000))
def test_strips_cover_a_batch_once_and_fit(samples, rows, row_bytes):
    covered = torch.zeros(samples, rows)

    with patch.object(strips, "STRIP_BYTES", 4000):
        cut = list(strips.strips(samples, rows, row_bytes, CPU))

    for strip in cut:
        covered[strip] += 1
        assert covered[strip].numel() * row_bytes <= 4000
        # Whole samples, or rows of one: so a strip's rows lie in memory at even distances.
        assert covered[strip].shape[0] == 1 or covered[strip].shape[1] == rows
    assert (covered == 1).all()


def test_a_row_that_is_larger_than_a_strip_may_be_is_one():
    with patch.object(strips, "STRIP_BYTES", 10):
        assert len(list(strips.strips(2, 3, 11, CPU))) == 6


def test_memory_that_no_tensor_lies_in_is_used_again():
    memory = strips._Memory()
    first = memory.take(1000)
    address, part = first.data_ptr(), first.view(10, 100)[3]
    del first

    second = memory.take(1000)
    assert second.data_ptr() != address

    del part
    assert memory.take(1000).data_ptr() == address
    assert address % strips.ALIGNMENT == 0


def test_memory_that_nothing_uses_is_let_go_beyond_what_is_kept():
    memory = strips._Memory()
    with patch.object(strips, "KEPT_BYTES", 50_000):
        held = [memory.take(size) for size in range(10_000, 100_000, 20_000)]
        kept = memory.take(5_000)
        del held
        memory.take(400_000)

    assert kept.shape == (5_000,)
    assert sum(block.nbytes for block in memory.blocks) < 50_000 + 5_000 + 400_000 + 3 * strips.ALIGNMENT


def test_memory_that_was_in_use_at_once_is_kept_as_it_may_be_again():
    memory = strips._Memory()
    with patch.object(strips, "KEPT_BYTES", 0):
        held = [memory.take(size) for size in range(10_000, 100_000, 20_000)]
        del held
        memory.take(4_000)
        assert sum(block.nbytes for block in memory.blocks) > 200_000

        # But not for ever, if less is in use from then on.
        for _ in range(300):
            memory.take(4_000)
            memory.blocks.pop()

    assert sum(block.nbytes for block in memory.blocks) < 10_000


def test_an_empty_tensor_has_the_shape_and_type_asked_for():
    x = empty((2, 3, 4), torch.bfloat16, CPU)

    assert (x.shape, x.dtype) == ((2, 3, 4), torch.bfloat16)
    assert empty((0, 3), torch.float32, CPU).shape == (0, 3)
    assert empty((2,), torch.float32, torch.device("meta")).device.type == "meta"
