import gc
import os
import threading
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.layers import Arena, Conv2d, Sequential, arena, ensure_arena
from engine.layers.arena import ALIGNMENT, SMALLEST_BYTES, SPARE, current, empty
from tests.support.oracle import PATHS

SIZE = 4 * SMALLEST_BYTES


def taken(bytes_=SIZE):
    return empty((bytes_ // 4,), torch.float32)


def test_the_memory_of_a_tensor_that_is_gone_is_used_again():
    with Arena().used():
        first = taken()
        address, part = first.data_ptr(), first[100:200]
        del first

        # A view of it still exists.
        assert taken().data_ptr() != address
        del part
        assert taken().data_ptr() == address


def test_a_tensor_keeps_its_memory_longer_than_the_arena_is_used():
    with Arena().used():
        kept = taken()
        kept.fill_(7.0)
        for _ in range(5):
            taken().fill_(1.0)

    gc.collect()
    assert (kept == 7.0).all()


def test_a_tensor_outlives_its_arena():
    owner = Arena()
    with owner.used():
        kept = taken()
        kept.fill_(7.0)

    owner.clear()
    del owner
    gc.collect()

    assert (kept == 7.0).all()


@pytest.mark.parametrize(("factor", "again"), [(1.0, True), (0.5, True), (0.01, True), (1.1, False)])
def test_memory_serves_sizes_up_to_its_own(factor, again):
    with Arena().used():
        address = taken(100 * SIZE).data_ptr()

        assert (taken(int(100 * SIZE * factor)).data_ptr() == address) is again


def test_the_smallest_gap_that_is_large_enough_is_taken():
    with Arena().used():
        sizes = (2 * SIZE, SIZE, 4 * SIZE)
        blocks = [taken(size) for size in sizes]
        addresses = [block.data_ptr() for block in blocks]
        del blocks

        assert [taken(size).data_ptr() for size in sizes] == addresses


def test_small_tensors_share_the_place_of_a_large_one():
    owner = Arena()
    with owner.used():
        address = taken(8 * SIZE).data_ptr()
        parts = [taken() for _ in range(7)]
        assert all(address <= part.data_ptr() < address + 8 * SIZE for part in parts)
        assert len({part.data_ptr() for part in parts}) == 7
        # In any order.
        for index in (3, 0, 5, 1, 2, 4, 0):
            parts.pop(min(index, len(parts) - 1))

        assert taken(8 * SIZE).data_ptr() == address
    assert owner.held == length(8 * SIZE)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40)), max_size=60))
def test_tensors_never_overlap_and_all_memory_comes_back(steps):
    owner, there = Arena(), {}
    with owner.used():
        for number, (key, size) in enumerate(steps):
            there.pop(key, None)
            tensor = taken(size * SMALLEST_BYTES)
            tensor.fill_(number)
            there[key] = tensor, number
            assert all((tensor == value).all() for tensor, value in there.values())
            del tensor
        there.clear()
        owner.clear()

    assert (owner.held, owner._in_use) == (0, 0)


def length(size):
    """Bytes that a tensor takes in an arena."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def test_what_is_small_is_not_the_arenas():
    owner = Arena()
    with owner.used():
        small = taken(SMALLEST_BYTES - 4)

    del small
    assert owner.held == 0


def test_clear_gives_free_memory_back_and_leaves_the_rest():
    owner = Arena()
    with owner.used():
        kept, gone = taken(), taken()
        kept.fill_(7.0)
        del gone
        assert owner.held == 2 * length(SIZE)

        owner.clear()

        assert owner.held == length(SIZE)
        assert (kept == 7.0).all()
    del kept
    owner.clear()
    assert owner.held == 0


def test_an_arena_holds_little_more_than_was_in_use_at_once():
    owner = Arena()
    with owner.used():
        for size in range(SMALLEST_BYTES, 60 * SMALLEST_BYTES, SMALLEST_BYTES):
            both = taken(size), taken(2 * size)
            # The slab of the second tensor comes on top of the limit.
            assert owner.held <= (SPARE + 1) * owner._most
            del both

    owner.clear()
    assert owner._in_use == 0


def test_arenas_can_be_nested():
    outer, inner = Arena(), Arena()
    with outer.used():
        with inner.used(), inner.used():
            assert current() is inner
            first = taken()
        assert current() is outer
        second = taken()

    assert current() is None
    assert (outer.held, inner.held) == (length(second.nbytes), length(first.nbytes))


def test_an_error_inside_ends_the_use():
    with pytest.raises(KeyError), Arena().used():
        raise KeyError

    assert current() is None


def test_another_thread_does_not_use_it():
    owner, seen = Arena(), []
    with owner.used():
        thread = threading.Thread(target=lambda: seen.extend((current(), taken())))
        thread.start()
        thread.join()

    assert seen[0] is None
    assert owner.held == 0


def test_memory_may_be_freed_by_another_thread():
    owner, tensors = Arena(), []
    with owner.used():
        tensors += [taken() for _ in range(50)]
        threads = [threading.Thread(target=lambda: [tensors.pop() for _ in range(10)]) for _ in range(5)]
        for thread in threads:
            thread.start()
            taken()
        for thread in threads:
            thread.join()

        assert owner.held <= 56 * length(SIZE)
        owner.clear()
        assert owner.held == 0


def test_ensure_arena_is_the_one_in_use_or_a_new_one():
    with ensure_arena():
        found = current()
        assert isinstance(found, Arena)
        with ensure_arena():
            assert current() is found

    assert current() is None


def test_empty_gives_the_shape_and_type_with_or_without_an_arena():
    for shape in ((2, 300, 400), (0, 3), (1, 2)):
        for dtype in (torch.float32, torch.bfloat16):
            with Arena().used():
                x = empty(shape, dtype)

            assert (x.shape, x.dtype) == (empty(shape, dtype).shape, dtype)
            assert x.is_contiguous()


@pytest.mark.parametrize("path", PATHS)
def test_layers_compute_the_same_in_an_arena_step_after_step(path):
    net, x = Sequential(Conv2d(8, 20, 3, padding=1), Conv2d(20, 8, 3, padding=1)), torch.rand(1, 64, 64, 8)
    with path():
        expected = net.forward(x, train=True), net.backward(x)

        owner = Arena()
        for _ in range(3):
            with owner.used():
                result = net.forward(x, train=True), net.backward(x)
            assert all(map(torch.equal, result, expected))


def test_an_arena_and_its_memory_go_while_the_network_stays():
    """Packed weights outlive an arena: if they were in it, they would keep all of its memory."""
    # The packed weight is larger than SMALLEST_BYTES.
    layer, x = Conv2d(64, 64, 3, padding=1), torch.rand(1, 64, 64, 64)
    owner = Arena()
    with owner.used():
        layer.forward(x)

    gone = weakref.ref(owner)
    del owner
    gc.collect()

    assert gone() is None


def test_memory_is_given_back_to_the_system(monkeypatch):
    owner, blocks = Arena(), []
    fresh = arena._fresh
    monkeypatch.setattr(arena, "_fresh", lambda size: blocks.append(fresh(size)) or blocks[-1])
    with owner.used():
        taken()
    gone = weakref.ref(blocks.pop())

    owner.clear()
    gc.collect()

    assert gone() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_does_not_write_into_its_parents_memory():
    with Arena().used():
        first = taken()
        first.zero_()
        address = first.data_ptr()
        del first
        child = os.fork()
        if child == 0:
            same = taken()
            same.fill_(7.0)
            os._exit(0 if same.data_ptr() == address else 1)
        _, status = os.waitpid(child, 0)

        again = taken()
        assert (status, again.data_ptr()) == (0, address)
        assert (again == 0.0).all()


def test_a_lack_of_memory_is_a_memory_error():
    with Arena().used(), pytest.raises(MemoryError, match="activations"):
        empty((1 << 60,), torch.uint8)
