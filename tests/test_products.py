"""The two libraries' products against the definition, and what decides between them."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import drawn

from engine.layers import products

sizes = st.integers(1, 70)
drawn_often = settings(max_examples=40, deadline=None, derandomize=True)


def by(onednn):
    """With every product made by that library, however small."""
    return patch.multiple(products, FEWEST=0, DEEP=0, onednn_is_faster=lambda: onednn)


@drawn_often
@given(sizes, sizes, sizes, st.booleans(), st.sampled_from([torch.float64, torch.float32]))
def test_either_library_gives_the_product(m, k, n, onednn, dtype):
    a, b = (t.to(dtype) for t in (drawn(m, k), drawn(k, n, seed=1)))
    out, c = torch.empty(m, n, dtype=dtype), drawn(m, n, seed=3).to(dtype)
    several = torch.empty(2, m, n, dtype=dtype)

    with by(onednn):
        made = products.product(a, b)
        products.product_into(out, a, b)
        products.products_into(several, torch.stack((a, 2 * a)), torch.stack((b, b)))
        inner = products.inner(a[None], c[None])[0]

    torch.testing.assert_close(made.double(), a.double() @ b.double(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(out, made)
    torch.testing.assert_close(several, torch.stack((made, 2 * made)), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(inner.double(), a.double().T @ c.double(), atol=1e-4, rtol=1e-5)


def test_rows_that_lie_apart_and_overlapping_runs_are_multiplied_as_they_lie():
    memory = drawn(1000).float()
    a, b = memory.as_strided((90, 12), (10, 1), 3), drawn(12, 8, seed=1).float()

    with by(onednn=True):
        made = products.product(a, b)

    torch.testing.assert_close(made, a.clone() @ b)


@pytest.mark.parametrize(("blas", "onednn", "faster"), [(2.0, 1.0, True), (1.1, 1.0, False), (1.0, 2.0, False)])
def test_the_faster_library_is_taken_where_it_is_faster_by_more_than_a_copy(blas, onednn, faster):
    taken = iter([blas, onednn])
    products.onednn_is_faster.cache_clear()
    with patch.object(products, "seconds", lambda work: next(taken)):
        found = products.onednn_is_faster()
    products.onednn_is_faster.cache_clear()

    assert found is faster


def test_small_products_are_left_to_the_shorter_call():
    a, b = drawn(16, 16).float(), drawn(16, 16, seed=1).float()

    with patch.object(products, "onednn_is_faster", lambda: True), patch.object(products, "_onednn", None):
        torch.testing.assert_close(products.product(a, b), a @ b)
