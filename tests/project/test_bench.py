"""The benchmark: timing, comparison, and copies of networks that compute the same."""

import json
import sys
from functools import partial

import pytest
import torch

from engine.inference.denoise import denoise_image
from engine.layers import MSE, kernels, parameters
from engine.models.networks import AutoencoderConfig, UNetConfig
from tests.bench import denoisers, forward, layer, peers, sizing, step, workers
from tests.bench.__main__ import main
from tests.bench.plain import plain_path, plainly
from tests.bench.rows import Options, ResultsDiffer, Row, check_equal, compared, table
from tests.bench.subjects import image, network
from tests.bench.timing import fastest, interleaved
from tests.bench.torch_copy import torch_copy

PHOTO = UNetConfig(channels=(8, 16), blocks=(1, 1, 1))
SPECS = [PHOTO, AutoencoderConfig(8), AutoencoderConfig(8, "text")]
QUICK = Options(rounds=1, threads=1)


class Clock:
    """A clock that only the measured works advance. It records which work ran."""

    def __init__(self):
        self.now, self.ran = 0.0, []

    def __call__(self):
        return self.now

    def work(self, name, *seconds):
        """A work that takes the given seconds one after the other, and then the last one forever."""
        left = list(seconds)

        def run():
            self.ran.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def timed(clock, sides, rounds):
    return interleaved(sides, rounds, least=0.0, rest=0.0, clock=clock)


def test_programs_are_timed_in_turns():
    clock = Clock()

    seconds = timed(clock, {name: clock.work(name, 1.0) for name in "abc"}, 2)

    assert "".join(clock.ran) == "abc" + "abc" * 2
    assert seconds == {name: [1.0, 1.0] for name in "abc"}


def test_short_work_is_repeated_and_its_time_divided():
    clock = Clock()

    seconds = interleaved({"a": clock.work("a", 0.25)}, 1, least=1.0, rest=0.0, clock=clock)

    # Twice to warm up, then four times to fill a second.
    assert clock.ran == ["a"] * (2 + 4)
    assert seconds == {"a": [0.25]}


def test_a_row_has_medians_and_the_median_of_the_ratios():
    row = compared("g", "c", "float32", 6.0, "Mpx/s", [1.0, 2.0, 3.0], [2.0, 1.0, 12.0], "peer")

    assert (row.ours, row.peer) == (3.0, 3.0)
    assert row.ratio == 2.0


def test_the_fastest_of_several_programs_is_found():
    ways = {"slow": lambda: sum(range(200_000)), "fast": lambda: None}

    assert fastest(ways) == "fast"


def test_results_that_differ_stop_the_run(capsys):
    def group(options):
        check_equal("case", torch.ones(3), torch.tensor([1, 1, 1.1]), "float32")
        yield

    assert main(["--threads", "1"], {"g": group}) == 1
    assert "error: case, float32: the results differ" in capsys.readouterr().err


def test_nan_counts_as_a_difference():
    with pytest.raises(ResultsDiffer, match="differ"):
        check_equal("case", torch.tensor([float("nan")]), torch.tensor([1.0]), "bfloat16")


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_torch_copy_computes_the_same(spec):
    net, x = network(spec), torch.rand(2, 16, 24, 3)

    theirs = torch_copy(net).module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    torch.testing.assert_close(theirs, net.forward(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_plain_path_computes_the_same_both_ways(spec):
    net, other = network(spec), network(spec)
    x, target = torch.rand(2, 16, 24, 3), torch.rand(2, 16, 24, 3)

    def passes(net):
        y = net.forward(x, train=True)
        return y, net.backward(MSE().backward(y, target))

    (y, dx), (plain_y, plain_dx) = passes(net), plainly(lambda: passes(other))()

    torch.testing.assert_close(y, plain_y, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dx, plain_dx, atol=1e-6, rtol=1e-3)
    for mine, theirs in zip(parameters(net), parameters(other), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-3)


def test_the_plain_path_uses_no_kernel_and_ends_with_the_work():
    before = kernels.name()

    with plain_path():
        assert kernels.name() == "plain"

    assert plainly(kernels.name)() == "plain"
    assert kernels.name() == before


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("name", "make"), [("onnxruntime", peers.onnx_runtime), ("openvino", peers.openvino)])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_runtime_computes_the_same(name, make, spec):
    pytest.importorskip("onnx", reason="comes with the extra bench")
    pytest.importorskip(name, reason="comes with the extra bench")
    net, given = network(spec), image(40, 57)

    theirs = make(net, (40, 57), "float32", 1)(given)

    torch.testing.assert_close(theirs, denoise_image(net, given), atol=1e-4, rtol=1e-4)


def test_a_peer_gets_the_image_mirrored_as_in_the_engine():
    net, given = network(PHOTO), image(40, 57)

    for denoise in peers.torch_nn(net, "float32").values():
        torch.testing.assert_close(denoise(given), denoise_image(net, given), atol=1e-4, rtol=1e-4)


@pytest.fixture
def without_runtimes(monkeypatch):
    """As if the extra bench were not installed."""
    for name in ("onnx", "onnxruntime", "openvino", "bm3d", "cv2", "skimage", "skimage.restoration"):
        monkeypatch.setitem(sys.modules, name, None)


def test_the_json_output_is_one_object_with_all_rows(without_runtimes, capsys):
    tiny = partial(forward.rows, networks={"tiny": PHOTO}, sizes=[(32, 32)])

    code = main(["--json", "--rounds", "1", "--threads", "1", "--precision", "float32"], {"forward": tiny})

    output = json.loads(capsys.readouterr().out)
    assert code == 0
    assert "torch" in output["processor"]
    (row,) = output["rows"]
    assert list(row) == ["group", "case", "precision", "ours", "peer", "peer_name", "unit", "ratio"]
    assert (row["group"], row["case"], row["precision"]) == ("forward", "tiny, 32 x 32", "float32")
    assert row["peer_name"].startswith("torch.nn")
    assert min(row["ours"], row["peer"], row["ratio"]) > 0


def test_a_peer_that_is_not_installed_is_skipped_by_name(without_runtimes, capsys):
    rows = list(forward.rows(QUICK, {"tiny": PHOTO}, [(32, 32)]))

    assert len(rows) == 1
    told = capsys.readouterr().err
    assert "skipped: tiny, 32 x 32, float32, onnxruntime: onnxruntime is not installed" in told
    assert "skipped: tiny, 32 x 32, float32, openvino: openvino is not installed" in told


def test_missing_denoisers_are_skipped(without_runtimes, capsys):
    assert not list(denoisers.rows(QUICK, {"tiny": network(PHOTO)}, crop=32))
    assert "BM3D: bm3d is not installed" in capsys.readouterr().err


def test_every_convolution_is_found_with_its_input_size():
    found = [str(case) for case, _ in layer.conv_cases(network(PHOTO), 32)]

    assert found == [
        "conv 3/1/1 12 to 8 at 16²",
        *["conv 3/1/1 8 to 8 at 16²"] * 2,
        "conv 2/2/0 8 to 16 at 16²",
        *["conv 3/1/1 16 to 16 at 8²"] * 2,
        "transposed 2/2/0 16 to 8 at 8²",
        *["conv 3/1/1 8 to 8 at 16²"] * 2,
        "conv 3/1/1 8 to 12 at 16²",
    ]


def test_a_shared_convolution_is_measured_once(monkeypatch):
    monkeypatch.setattr(layer, "LARGE", 32)
    options = Options(rounds=1, threads=1, only="2/2/0")

    rows = list(layer.rows(options, {"tiny": PHOTO, "same": PHOTO}, side=32))

    down, up = "conv 2/2/0 8 to 16 at 16² (tiny same)", "transposed 2/2/0 16 to 8 at 8² (tiny same)"
    cases = [f"{product}, {case}" for case in (down, up) for product in ("forward", "dL/dx", "dL/dW")]
    # Each is compared with torch's own and with the plain path.
    assert [row.case for row in rows] == [case for case in cases for _ in range(2)]


class Still:
    """Replaces torch's optimisers, which import its compiler and take seconds to do so."""

    def __init__(self, parameters, *settings, **more):
        self.parameters = parameters

    def zero_grad(self):
        for parameter in self.parameters:
            parameter.grad = None

    def step(self):
        pass


def test_a_step_is_compared_with_torch_and_the_plain_path(monkeypatch):
    for name in ("Adam", "SGD"):
        monkeypatch.setattr(torch.optim, name, Still)

    rows = list(
        step.rows(QUICK, {"tiny": PHOTO, "paper": AutoencoderConfig(8)}, {"tiny": (2, 16), "paper": (2, 16)})
    )

    assert [row.case for row in rows] == ["tiny, 2 x 16²"] * 2 + ["paper, 2 x 16²"] * 2
    assert {row.peer_name for row in rows} >= {"plain path"}


def test_two_processes_are_compared_with_one():
    (row,) = workers.rows(QUICK, {"tiny": PHOTO}, {"tiny": (3, 16)})

    assert (row.group, row.case, row.peer_name) == ("workers", "tiny, 3 x 16²", "one process")
    assert min(row.ours, row.peer, row.ratio) > 0
    assert all(row.more[f"exchange, {wire}"] > 0 for wire in ("bfloat16", "float32"))


def test_a_table_is_markdown_with_the_columns_of_its_group():
    row = Row("g", "c", "float32", 1.23456, None, None, "Mpx/s", None, {"seconds": 2.0})

    assert list(table(iter([row]))) == [
        "| case | precision | ours | peer | its name | unit | ratio | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| c | float32 | 1.235 |  |  | Mpx/s |  | 2 |",
    ]


def test_sizing_counts_images_per_hour_and_skips_large_ones():
    row, *others = sizing.rows(Options(rounds=2, threads=1, largest=0.01), sizes=((40, 50), (200, 200)))

    assert not others
    assert (row.group, row.case, row.unit, row.peer) == ("sizing", "auto, 50 x 40", "images/h", None)
    assert row.ours == pytest.approx(3600 / row.more["s"])
    assert 0.1 < row.more["GB"] < 2
