import io
import os
import pickle

import pytest
import torch

from engine.data.readers import read_pair_file
from tests.support.pixels import generator


def stack(count=3, height=10, width=12, seed=0):
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator(seed))


@pytest.mark.parametrize("suffix", [".pkl", ".pt"])
@pytest.mark.parametrize("container", [tuple, list])
def test_a_file_of_pairs_in_the_courses_format_is_read(tmp_path, suffix, container):
    first, second = stack(seed=1), stack(seed=2)
    torch.save(container((first, second)), tmp_path / f"pairs{suffix}")

    read = read_pair_file(tmp_path / f"pairs{suffix}")

    assert len(read) == 3
    assert read[1][0].shape == (10, 12, 3)
    assert torch.equal(read[1][0].permute(2, 0, 1), first[1])
    assert torch.equal(read[2][1].permute(2, 0, 1), second[2])


class Malicious:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def pickled(value):
    return pickle.dumps(value, protocol=2)


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.mark.parametrize("dump", [pickled, saved])
@pytest.mark.parametrize(
    "wrap", [lambda evil: evil, lambda evil: (stack(), evil), lambda evil: (stack(), {"a": [evil]})]
)
def test_a_malicious_pickle_is_refused_and_never_run(tmp_path, dump, wrap):
    trace, path = tmp_path / "trace", tmp_path / "pairs.pkl"
    path.write_bytes(dump(wrap(Malicious(trace))))

    with pytest.raises(ValueError, match=r"pairs.pkl: not a file of tensors alone"):
        read_pair_file(path)

    assert not trace.exists()
    # The file is what it pretends to be: a careless reader does run it.
    if dump is pickled:
        pickle.loads(path.read_bytes())
        assert trace.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\x80\x02}",
        b"PK\x03\x04",
        bytes(range(256)),
        pickled((1, 2))[:-3],
        saved((stack(), stack()))[:200],
    ],
)
def test_a_file_that_is_broken_is_refused(tmp_path, data):
    path = tmp_path / "pairs.pkl"
    path.write_bytes(data)

    with pytest.raises(ValueError, match=r"pairs.pkl: not a file of tensors alone"):
        read_pair_file(path)


@pytest.mark.parametrize(
    "held",
    [
        stack(),
        (stack(),),
        (stack(), stack(), stack()),
        (stack().float(), stack().float()),
        (stack().permute(0, 2, 3, 1), stack()),
        (stack()[0], stack()[0]),
        {"noisy": stack(), "clean": stack()},
        (stack(), 3),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, held):
    torch.save(held, tmp_path / "pairs.pt")

    with pytest.raises(
        ValueError, match=r"pairs.pt: expected two uint8 tensors \(first, second\) of N x 3 x H x W"
    ):
        read_pair_file(tmp_path / "pairs.pt")


def test_stacks_of_different_shapes_are_refused(tmp_path):
    torch.save((stack(3), stack(4)), tmp_path / "pairs.pt")

    with pytest.raises(ValueError, match=r"pairs.pt: shapes differ, \(3, 3, 10, 12\) and \(4, 3, 10, 12\)"):
        read_pair_file(tmp_path / "pairs.pt")
