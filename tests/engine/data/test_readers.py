import io
import os
import pickle

import pytest
import torch

from engine.data.readers import read_pairs
from tests.support.pixels import generator, write_image


def plain(value, height=20, width=24):
    """An image that says by its brightness which it is."""
    return torch.full((height, width, 3), value, dtype=torch.uint8)


# Files of pairs


def stack(count=3, height=10, width=12, seed=0):
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator(seed))


@pytest.mark.parametrize("suffix", [".pkl", ".pt"])
@pytest.mark.parametrize("container", [tuple, list])
def test_a_file_of_pairs_in_the_courses_format_is_read(tmp_path, suffix, container):
    first, second = stack(seed=1), stack(seed=2)
    torch.save(container((first, second)), tmp_path / f"pairs{suffix}")

    read = read_pairs(tmp_path / f"pairs{suffix}")

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
        read_pairs(path)

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
        read_pairs(path)


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
        read_pairs(tmp_path / "pairs.pt")


def test_stacks_of_different_shapes_are_refused(tmp_path):
    torch.save((stack(3), stack(4)), tmp_path / "pairs.pt")

    with pytest.raises(ValueError, match=r"pairs.pt: shapes differ, \(3, 3, 10, 12\) and \(4, 3, 10, 12\)"):
        read_pairs(tmp_path / "pairs.pt")


# Folders of pairs


def test_a_folder_of_names_that_end_in_1_and_2_holds_pairs(tmp_path):
    for name, value in (("cat_1", 1), ("cat_2", 2), ("a_dog_1", 11), ("a_dog_2", 12)):
        write_image(tmp_path / f"{name}.png", plain(value))
    (tmp_path / "notes.txt").write_text("taken on Sunday")
    (tmp_path / "._cat_1.png").write_bytes(b"another system's notes")

    read = read_pairs(tmp_path)

    assert [(int(a[0, 0, 0]), int(b[0, 0, 0])) for a, b in read] == [(11, 12), (1, 2)]


@pytest.mark.parametrize("extra", ["cat_3", "cow_1", "cow_2", "cow", "catty"])
def test_a_shot_without_partner_among_pairs_is_refused_by_name(tmp_path, extra):
    for name in ("cat_1", "cat_2", extra):
        write_image(tmp_path / f"{name}.png", plain(1))

    with pytest.raises(ValueError, match=rf"no partner for {extra}.png$"):
        read_pairs(tmp_path)


def test_two_folders_with_equal_names_hold_pairs(tmp_path):
    for folder, value in (("first", 1), ("second", 2)):
        for number in range(2):
            write_image(tmp_path / folder / f"shot{number}.png", plain(10 * number + value))

    read = read_pairs(tmp_path)

    assert [(int(a[0, 0, 0]), int(b[0, 0, 0])) for a, b in read] == [(1, 2), (11, 12)]


def test_two_folders_with_other_names_are_refused_by_name(tmp_path):
    for folder, name in (("a", "x"), ("a", "y"), ("b", "x"), ("b", "z")):
        write_image(tmp_path / folder / f"{name}.png", plain(1))

    with pytest.raises(ValueError, match="only one of its two folders has y, z"):
        read_pairs(tmp_path)


def test_a_folder_of_photos_holds_no_pairs(tmp_path):
    for name in ("cat", "dog_1", "dog"):
        write_image(tmp_path / f"{name}.png", plain(1))

    assert read_pairs(tmp_path) is None
