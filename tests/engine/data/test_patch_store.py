import pytest
import torch

from engine.data import patch_store
from engine.data.patch_store import CropBoxes, PatchBatch, PatchStore
from tests.support.pixels import generator, random_pixels


def boxes(*values):
    """Boxes from (image, top, left, side) each."""
    image, top, left, side = zip(*values, strict=True)
    return CropBoxes(torch.tensor(image), torch.tensor(top), torch.tensor(left), torch.tensor(side).float())


def upright(count):
    return torch.zeros(3, count, dtype=torch.bool)


def all_orientations(patch):
    """Eight of them."""
    return [turned for one in (patch, patch.transpose(0, 1)) for turned in flips(one)]


def flips(patch):
    return [patch, patch.flip(0), patch.flip(1), patch.flip(0, 1)]


IMAGES = [random_pixels(20, 31, 1), random_pixels(44, 24, 2), random_pixels(12, 12, 3)]


# Patches


@pytest.mark.parametrize("zoom", [1.0, 0.5])
def test_patches_without_zoom_are_the_images_bytes(zoom):
    batch = PatchBatch(
        PatchStore(IMAGES, zoom), boxes((0, 12, 23, 8), (1, 36, 16, 8), (2, 0, 4, 8)), 8, upright(3)
    )

    expected = (IMAGES[0][12:, 23:], IMAGES[1][36:, 16:], IMAGES[2][:8, 4:])
    torch.testing.assert_close(batch.read(), torch.stack(expected).float() / 255)


@pytest.mark.parametrize("zoom", [1.0, 0.5])
def test_images_of_floats_are_not_rounded(zoom, monkeypatch):
    images = [image.float() + 0.25 for image in IMAGES]
    place = boxes((1, 36, 16, 8), (2, 0, 4, 8))
    expected = torch.stack((images[1][36:, 16:], images[2][:8, 4:])) / 255

    for bytes_in_memory in (2**30, 100):
        monkeypatch.setattr(patch_store, "MAX_BYTES_IN_MEMORY", bytes_in_memory)
        batch = PatchBatch(PatchStore(images, zoom), place, 8, upright(2))
        torch.testing.assert_close(batch.read(), expected)


def test_a_part_of_a_batch_is_read_alone():
    place = boxes((0, 12, 23, 8), (1, 36, 16, 8), (2, 0, 4, 8))
    orientation = torch.tensor([[True, False, True], [False, True, False], [False, False, True]])
    batch = PatchBatch(PatchStore(IMAGES), place, 8, orientation)

    assert torch.equal(batch.part(slice(1, 3)).read(), batch.read()[1:3])


def test_a_zoomed_patch_is_the_mean_of_areas_by_hand():
    image = torch.tensor([[0, 30, 60], [90, 120, 150], [180, 210, 240]], dtype=torch.uint8)
    image = image.unsqueeze(2).expand(3, 3, 3)

    batch = PatchBatch(PatchStore([image], 0.5), boxes((0, 0, 0, 3)), 2, upright(1))

    # Each pixel covers one and a half: two thirds of it are the outer one's.
    by_hand = torch.tensor([[40.0, 80.0], [160.0, 200.0]]) / 255
    torch.testing.assert_close(batch.read()[0, ..., 1], by_hand)


@pytest.mark.parametrize("side", [8, 11, 15, 16])
def test_a_zoomed_pixel_is_the_mean_of_the_area_it_covers(side):
    source = IMAGES[1][5 : 5 + side, 3 : 3 + side].float() / 255
    # Each pixel as 8 x 8, so that the area of a new one is a whole number of them.
    fine = source.repeat_interleave(8, 0).repeat_interleave(8, 1)
    expected = fine.view(8, side, 8, side, 3).mean((1, 3))

    batch = PatchBatch(PatchStore(IMAGES, 0.5), boxes((1, 5, 3, side)), 8, upright(1)).read()

    torch.testing.assert_close(batch[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("zoom", [1.0, 0.6])
def test_some_pixels_are_those_of_the_whole_patch(zoom):
    store = PatchStore(IMAGES, zoom)
    orientation = torch.tensor([[number >> bit & 1 for number in range(8)] for bit in range(3)]).bool()
    batch = PatchBatch(store, boxes(*[(1, 7, 2, 9 if zoom < 1 else 8)] * 8), 8, orientation)
    y, x = torch.randint(8, (2, 8, 5, 6), generator=generator())

    whole = batch.read()

    assert torch.equal(batch.read_pixels(y, x), whole[torch.arange(8).view(8, 1, 1), y, x])
    assert len(whole.flatten(1).unique(dim=0)) == 8
    for turned in all_orientations(whole[0]):
        assert (whole - turned).abs().amax((1, 2, 3)).min() < 1e-5


def test_all_eight_orientations_are_equally_frequent():
    store = PatchStore(IMAGES)
    batch = store.random_patches(boxes(*[(0, 0, 0, 8)] * 800), 8, generator())

    _, counts = batch.read().flatten(1).unique(dim=0, return_counts=True)

    assert len(counts) == 8
    assert counts.min() > 60


# Boxes


@pytest.mark.parametrize("zoom", [1.0, 0.6])
def test_boxes_lie_within_their_image_and_reach_its_borders(zoom):
    store = PatchStore(IMAGES, zoom)
    images = store.random_images((3000,), 12, generator())

    top, left, side = store.random_boxes(images, 12, generator(1))[1:]

    assert set(images.tolist()) == {0, 1, 2}
    for number, image in enumerate(IMAGES):
        of = images == number
        for corner, length in ((top, image.shape[0]), (left, image.shape[1])):
            end = corner[of] + side[of]
            assert corner[of].min() == 0
            assert length - 1 < end.max() <= length
    assert side.min() >= 12 - 1e-4
    assert side.max() <= 12 / zoom + 1e-4


def test_zooms_are_drawn_evenly():
    store = PatchStore([random_pixels(100, 100)], 0.6)

    zooms = 20 / store.random_boxes(torch.zeros(4000, dtype=torch.int64), 20, generator()).side

    assert zooms.min() >= 0.6 - 1e-6
    assert zooms.mean().item() == pytest.approx(0.8, abs=0.01)
    assert zooms.std().item() == pytest.approx(0.4 / 12**0.5, rel=0.05)


def test_only_images_that_are_large_enough_are_drawn():
    assert set(PatchStore(IMAGES).random_images((200,), 15, generator()).tolist()) == {0, 1}


def test_a_patch_larger_than_all_images_is_refused():
    with pytest.raises(ValueError, match="no photo is large enough to cut 25 x 25 pixels from"):
        PatchStore(IMAGES).random_images((1,), 25, generator())


# Detail


def test_detail_is_the_spread_of_diagonal_differences():
    image = random_pixels(30, 30)

    detail = PatchStore([image]).detail(CropBoxes(*(part[None] for part in boxes((0, 3, 5, 16)))), 16)

    green = image[3:19, 5:21, 1].float()
    torch.testing.assert_close(detail, (green[1:, 1:] - green[:-1, :-1]).std(correction=0).view(1, 1))


def test_detail_of_a_large_box_is_measured_at_some_points():
    flat, fine = torch.full((200, 200, 3), 9, dtype=torch.uint8), random_pixels(200, 200)
    store = PatchStore([flat, fine, fine // 4], 0.6)

    none, much, little = store.detail(
        CropBoxes(*(part[None] for part in boxes(*[(n, 0, 0, 190) for n in range(3)]))), 128
    )[0]

    assert none == 0
    # Of two even numbers 0-255 the difference has a standard deviation of 104.
    assert much.item() == pytest.approx(104, rel=0.1)
    assert little.item() == pytest.approx(26, rel=0.1)


# Where images are kept


def test_many_images_are_kept_in_a_file_and_read_alike(monkeypatch):
    crops = boxes((0, 3, 4, 12), (1, 30, 10, 12))
    here = PatchBatch(PatchStore(IMAGES, 0.6), crops, 10, upright(2)).read()
    monkeypatch.setattr(patch_store, "MAX_BYTES_IN_MEMORY", 100)

    there = PatchBatch(PatchStore(iter(IMAGES), 0.6), crops, 10, upright(2)).read()

    assert torch.equal(here, there)


def test_an_image_can_be_replaced():
    store = PatchStore([random_pixels(9, 9, n) for n in range(3)])
    store.replace(1, random_pixels(9, 9, 7))

    batch = PatchBatch(store, boxes((0, 0, 0, 9), (1, 0, 0, 9), (2, 0, 0, 9)), 9, upright(3)).read()

    expected = torch.stack([random_pixels(9, 9, n) for n in (0, 7, 2)]).float() / 255
    torch.testing.assert_close(batch, expected)


def test_images_may_have_more_channels():
    pair = random_pixels(12, 14, channels=6)

    batch = PatchBatch(PatchStore([pair]), boxes((0, 1, 2, 8)), 8, upright(1)).read()

    torch.testing.assert_close(batch[0], pair[1:9, 2:10].float() / 255)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="there are no images"):
        PatchStore([])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("zoom", [1.0, 0.6])
def test_a_gpu_reads_what_a_cpu_does(zoom):
    crops, orientation = boxes((0, 3, 4, 10), (1, 30, 10, 10)), torch.tensor([[True, False]] * 3)
    here = PatchBatch(PatchStore(IMAGES, zoom), crops, 10, orientation).read()
    far = PatchStore(IMAGES, zoom, "cuda")

    there = PatchBatch(far, CropBoxes(*(part.cuda() for part in crops)), 10, orientation.cuda()).read()

    torch.testing.assert_close(there.cpu(), here)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_images_too_large_for_a_gpu_are_read_on_the_cpu(monkeypatch):
    monkeypatch.setattr(patch_store, "MAX_PART_OF_GPU", 0.0)
    store = PatchStore(IMAGES, 0.6, "cuda")

    batch = store.random_patches(boxes((0, 3, 4, 12)), 10, generator()).read()

    assert store.data.device.type == "cpu"
    assert batch.device.type == "cuda"
