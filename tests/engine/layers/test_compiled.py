"""The compiled path: inputs that it refuses before a kernel runs, and calls from many threads."""

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.layers import Conv2d, ConvGeometry, ConvTranspose2d, compiled, kernels, multiply
from engine.layers.plain import Epilogue
from tests.bench.plain import plain_path
from tests.support.oracle import PATHS, drawn

F32 = torch.float32
BF16 = torch.bfloat16
SAME = ConvGeometry(3, 1, 1)
NONE = Epilogue()
# A convolution from X to Y.
X = torch.zeros(2, 6, 7, 4)
Y = torch.zeros(2, 6, 7, 5)
WEIGHT = torch.zeros(36, 5)
with_kernels = pytest.mark.skipif(kernels.chosen() is None, reason="there are no kernels for this processor")


def apart(tensor):
    """A copy that is not contiguous."""
    return torch.stack((tensor, tensor), -1)[..., 0]


@pytest.fixture
def refused():
    """refused(work, message) checks that work() raises ValueError before any kernel is called."""
    library, asked = kernels.chosen(), []
    names = ("conv_pack", "conv_product", "conv_weight_gradient", "rearrange_pixels")
    ask = dict.fromkeys(names, lambda *given: asked.append(given) or 0)

    def check(work, message):
        with patch.multiple(library, **ask), pytest.raises(ValueError, match=message):
            work()
        assert not asked

    return check


@pytest.fixture
def packed():
    return compiled.pack(WEIGHT, SAME, False, F32)


@with_kernels
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[0],
        lambda x: x[:0],
        lambda x: x[..., :3].contiguous(),
        apart,
        lambda x: x.double(),
        lambda x: x.half(),
        lambda x: x.int(),
        lambda x: x.to("meta"),
    ],
    ids=["sides", "nothing", "channels", "gaps", "float64", "float16", "int32", "device"],
)
def test_an_input_that_does_not_fit_is_refused(change, refused, packed):
    back = compiled.pack(WEIGHT, SAME, True, F32)

    refused(lambda: compiled.product(change(X), packed, SAME, (6, 7), 5, NONE), "must be|kernels take|packed")
    refused(lambda: compiled.adjoint(change(Y), back, SAME, (6, 7), 4, NONE), "must be|kernels take|packed")


@with_kernels
@pytest.mark.parametrize("size", [(7, 7), (6, 8), (0, 7), (5, 7), (6, 6)])
def test_a_size_that_does_not_fit_is_refused(size, refused, packed):
    refused(lambda: compiled.product(X, packed, SAME, size, 5, NONE), r"makes .*6 x 7|none of them 0")


@with_kernels
@pytest.mark.parametrize("size", [(5, 7), (6, 6), (7, 7), (6, 8)])
def test_an_adjoint_to_a_size_that_does_not_fit_is_refused(size, refused):
    back = compiled.pack(WEIGHT, SAME, True, F32)

    refused(lambda: compiled.adjoint(Y, back, SAME, size, 4, NONE), r"makes .* got 6 x 7")


@with_kernels
@pytest.mark.parametrize(
    "change",
    [lambda p: p[1:], lambda p: p.double(), apart, lambda p: p.to("meta")],
    ids=["short", "float64", "gaps", "device"],
)
def test_a_packed_weight_that_does_not_fit_is_refused(change, refused, packed):
    refused(lambda: compiled.product(X, change(packed), SAME, (6, 7), 5, NONE), "packed")


@with_kernels
@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.double(),
        lambda w: w.bfloat16(),
        lambda w: w.to("meta"),
        lambda w: w[:35],
        lambda w: w[:0],
        lambda w: w[:, :0],
        lambda w: w[:, 0].contiguous(),
        lambda w: w[None],
    ],
    ids=["float64", "bfloat16", "device", "rows", "no rows", "no columns", "one side", "three sides"],
)
def test_a_weight_that_does_not_fit_is_refused(change, refused):
    refused(lambda: compiled.pack(change(WEIGHT), SAME, False, F32), "weight|none of them 0")


@with_kernels
@pytest.mark.parametrize("change", [lambda w: w.T.contiguous().T, apart], ids=["by columns", "gaps"])
def test_a_weight_may_have_any_strides(change, packed):
    assert torch.equal(compiled.pack(change(WEIGHT), SAME, False, F32), packed)


@with_kernels
def test_a_weight_is_packed_for_no_other_type_than_kernels_take(refused):
    refused(lambda: compiled.pack(WEIGHT, SAME, False, torch.float64), "float64")


@with_kernels
@pytest.mark.parametrize("part", ["bias", "add", "mask"])
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[:-1],
        lambda t: t.double(),
        lambda t: t.bfloat16(),
        apart,
        lambda t: t[None],
        lambda t: t.to("meta"),
    ],
    ids=["short", "float64", "bfloat16", "gaps", "sides", "device"],
)
def test_an_epilogue_that_does_not_fit_is_refused_by_part(part, change, refused, packed):
    wrong = change(torch.zeros(5) if part == "bias" else Y)
    epilogue = NONE._replace(**{part: wrong})

    refused(lambda: compiled.product(X, packed, SAME, (6, 7), 5, epilogue), f"{part} must be contiguous")


@with_kernels
@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X[0], Y[0]),
        (X, Y[:1]),
        (X, Y[0]),
        (X, torch.zeros(2, 7, 7, 5)),
        (X, torch.zeros(2, 5, 7, 5)),
        (X, Y.bfloat16()),
        (X.double(), Y.double()),
        (X.int(), Y.int()),
        (apart(X), Y),
        (X, apart(Y)),
        (X[:0], Y[:0]),
        (X.to("meta"), Y.to("meta")),
    ],
    ids=[
        "sides",
        "batch",
        "y_sides",
        "larger",
        "smaller",
        "types",
        "float64",
        "int32",
        "gaps",
        "gaps_in_y",
        "nothing",
        "device",
    ],
)
def test_a_gradient_of_what_does_not_fit_is_refused(x, y, refused):
    refused(lambda: compiled.gradient(x, y, SAME), "must be contiguous|a batch must be|makes|kernels take")


@with_kernels
@pytest.mark.parametrize(
    ("x", "deeper", "dtype", "add"),
    [
        (X[0], True, F32, None),
        (apart(X), False, F32, None),
        (X, True, F32, None),
        (X[..., :3].contiguous(), False, F32, None),
        (X.double(), False, F32, None),
        (X, False, torch.float64, None),
        (X, False, F32, torch.zeros(2, 12, 14, 2)),
        (X, False, F32, torch.zeros(2, 12, 14, 1).bfloat16()),
        (X, False, F32, apart(torch.zeros(2, 12, 14, 1))),
    ],
    ids=["sides", "gaps", "odd", "channels", "float64", "to_float64", "add", "type_of_add", "gaps_in_add"],
)
def test_a_rearrangement_of_what_does_not_fit_is_refused(x, deeper, dtype, add, refused):
    refused(lambda: compiled.rearrange(x, 2, deeper, dtype, add), "must be")


@with_kernels
def test_without_memory_there_is_a_memory_error(packed):
    with (
        patch.object(kernels.chosen(), "conv_product", lambda *_: -1),
        pytest.raises(MemoryError, match="out of memory in a convolution"),
    ):
        compiled.product(X, packed, SAME, (6, 7), 5, NONE)


def test_without_kernels_there_is_nothing_to_run():
    with plain_path():
        assert not compiled.supports(X)
        with pytest.raises(ValueError, match="there are no kernels for this processor"):
            compiled.pack(WEIGHT, SAME, False, F32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32])
def test_other_types_than_float32_and_bfloat16_go_the_plain_path(dtype):
    assert not compiled.supports(X.to(dtype))


# Products of matrices


sizes = st.integers(1, 70)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(sizes, sizes, sizes, st.sampled_from([F32, torch.float64]), st.booleans())
def test_a_product_of_matrices_is_that_of_float64(path, m, k, n, dtype, transposed):
    a = drawn(k, m).to(dtype).T if transposed else drawn(m, k).to(dtype)
    b = drawn(k, n, seed=1).to(dtype)
    with path():
        result = multiply(a, b)

    assert result.dtype == dtype
    # The error is at most k roundings of the sum of absolute values.
    bound = k * 2**-24 * (a.double().abs() @ b.double().abs())
    assert ((result.double() - a.double() @ b.double()).abs() <= bound).all()


def test_a_product_of_matrices_on_a_case_worked_by_hand():
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([[1.0, 10.0], [0.0, 1.0]])

    assert multiply(a, b).tolist() == [[1.0, 12.0], [3.0, 34.0], [5.0, 56.0]]


def test_a_product_of_empty_matrices_is_that_of_torch():
    assert multiply(torch.zeros(0, 3), torch.zeros(3, 2)).shape == (0, 2)
    assert torch.equal(multiply(torch.zeros(2, 0), torch.zeros(0, 3)), torch.zeros(2, 3))


# Many threads


LAYERS = [
    (Conv2d(20, 33, 3, padding=1), (1, 24, 30, 20)),
    (Conv2d(64, 64, 3, padding=1), (2, 17, 21, 64)),
    (Conv2d(3, 40, 3, 2, 1), (1, 40, 33, 3)),
    (ConvTranspose2d(48, 16, 2, 2), (2, 10, 13, 48)),
    (Conv2d(16, 32, 2, 2), (1, 30, 40, 16)),
    (ConvTranspose2d(9, 5, 3, 2, 1, output_padding=1), (3, 11, 12, 9)),
    (Conv2d(7, 6, 5, padding=2, dilation=2), (1, 19, 20, 7)),
    (Conv2d(32, 12, 1), (2, 25, 26, 32)),
]


@with_kernels
def test_many_threads_at_once_get_what_each_gets_alone():
    """Also while the number of threads changes from call to call."""

    def passes(index, dtype):
        layer, shape = LAYERS[index]
        x = drawn(*shape).to(dtype)
        y = layer.forward(x, train=True, relu=True)
        return y, layer.backward(y), layer.grads["weight"]

    def often(index):
        for call in range(20):
            torch.set_num_threads(1 + (index + call) % 4)
            dtype = (F32, BF16)[call % 2]
            assert all(map(torch.equal, passes(index, dtype), alone[index, dtype]))

    alone = {(index, dtype): passes(index, dtype) for index in range(len(LAYERS)) for dtype in (F32, BF16)}
    before = torch.get_num_threads()

    with ThreadPoolExecutor(len(LAYERS)) as pool:
        for done in [pool.submit(often, index) for index in range(len(LAYERS))]:
            done.result()

    torch.set_num_threads(before)


@with_kernels
def test_one_layer_serves_many_threads_from_its_first_call_on():
    layer, x = Conv2d(16, 24, 3, padding=1), drawn(1, 20, 20, 16).float()
    alone = layer.forward(x)
    layer.drop_packed_weights()

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(layer.forward, [x] * 40))

    assert all(torch.equal(result, alone) for result in results)
