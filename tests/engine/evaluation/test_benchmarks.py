from itertools import pairwise

import pytest
import torch

from engine.evaluation.benchmarks import Trial, recorded, trials, white
from engine.evaluation.evaluate import Score
from engine.evaluation.metrics import psnr
from engine.evaluation.samples import Sample
from tests.support.pixels import write_image

NAMES = ("a", "b", "c", "d", "e", "f", "g")


def image(seed, side=16):
    return torch.randint(256, (side, side, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture
def folder(tmp_path):
    """All the sets, of a few small images."""
    for seed, name in enumerate(NAMES):
        write_image(tmp_path / "cbsd68" / f"{name}.png", image(seed))
        write_image(tmp_path / "kodak24" / f"{name}.png", image(seed, 64))
        write_image(tmp_path / "polyu" / f"{name}_real.png", image(seed))
        write_image(tmp_path / "polyu" / f"{name}_mean.png", image(seed + 20))
    (tmp_path / "paper").mkdir()
    pairs = torch.stack([image(seed).permute(2, 0, 1) for seed in range(4)])
    torch.save((pairs, pairs), tmp_path / "paper" / "val.pkl")
    return tmp_path


def of(folder, set_, noise):
    [trial] = [trial for trial in trials(folder)[0] if (trial.set, trial.noise) == (set_, noise)]
    return trial


def score(psnr):
    return Score(20.0, 0.5, psnr, 0.9, 100, 1.0)


def test_every_set_and_noise_is_there_in_the_order_of_the_table(folder):
    found, missing = trials(folder)

    assert [(trial.set, trial.noise) for trial in found] == [
        ("cbsd68", "white 15"), ("cbsd68", "white 25"), ("cbsd68", "white 50"),
        ("kodak24", "white 15"), ("kodak24", "white 25"), ("kodak24", "white 50"),
        ("polyu", "camera"), ("polyu", "camera in place"),
        ("kodak24", "8-bit 25"), ("cbsd68", "grey 25"), ("kodak24", "none"),
        ("paper/val.pkl", "recorded"), ("patterns", "white 25"), ("patterns", "none"),
    ]  # fmt: skip
    assert missing == []


def test_sets_that_are_not_there_are_left_out_and_named(tmp_path):
    write_image(tmp_path / "kodak24" / "a.png", image(0))

    found, missing = trials(tmp_path)

    assert {trial.set for trial in found} == {"kodak24", "patterns"}
    assert missing == ["cbsd68", "polyu", "paper/val.pkl"]


def test_a_folder_with_none_of_the_sets_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has none of the sets cbsd68, kodak24, polyu, paper/val\.pkl"):
        trials(tmp_path)


def test_white_noise_is_that_of_the_folders_own_trial(folder):
    one, other = of(folder, "kodak24", "white 25"), white(folder / "kodak24", 25)

    assert one.level == 25
    for ours, theirs in zip(one.pairs(), other.pairs(), strict=True):
        assert torch.equal(ours[0], theirs[0])


def test_8_bits_are_the_white_noise_rounded_and_clipped(folder):
    for (noisy, clean), (white_noisy, _) in zip(
        of(folder, "kodak24", "8-bit 25").pairs(), of(folder, "kodak24", "white 25").pairs(), strict=True
    ):
        levels = noisy * 255
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
        torch.testing.assert_close(noisy, white_noisy.clamp(0, 1), rtol=0, atol=0.5 / 255 + 1e-6)
        assert noisy.min() == 0
        assert noisy.max() == 1
        assert clean.shape == noisy.shape


def test_grey_has_luma_and_one_noise_in_all_channels(folder):
    noisy, clean = next(of(folder, "cbsd68", "grey 25").pairs())

    luma = image(0).double() @ torch.tensor([0.299, 0.587, 0.114]).double()
    assert torch.equal((clean[..., 1] * 255).round().double(), luma.round())
    for pixels in (noisy, clean):
        assert torch.equal(pixels[..., 0], pixels[..., 1])
        assert torch.equal(pixels[..., 0], pixels[..., 2])
    assert float((noisy - clean)[..., 0].std() * 255) == pytest.approx(25, rel=0.15)


def test_images_without_noise_come_as_they_are(folder):
    noisy, clean = next(of(folder, "kodak24", "none").pairs())

    assert torch.equal(noisy, clean)


def test_patterns_are_drawn_the_same_each_time_and_differ(folder):
    noisy, pure = of(folder, "patterns", "white 25").first(3), of(folder, "patterns", "none").first(3)
    cleans = [clean for _, clean in noisy.pairs()]

    assert all(torch.equal(clean, again) for clean, (again, _) in zip(cleans, pure.pairs(), strict=True))
    assert all(not torch.equal(one, other) for one, other in pairwise(cleans))
    assert all(float((x - y).std() * 255) == pytest.approx(25, rel=0.02) for x, y in noisy.pairs())


def test_of_polyu_all_but_every_fifth_are_a_row_of_their_own(folder):
    parts = dict(of(folder, "polyu", "camera").parts([score(30.0 + n) for n in range(7)]))

    assert list(parts) == ["polyu", "polyu apart"]
    assert [each.psnr for each in parts["polyu"]] == [30, 31, 32, 33, 34, 35, 36]
    assert [each.psnr for each in parts["polyu apart"]] == [31, 32, 33, 34, 36]


def test_a_mean_image_is_moved_onto_its_noisy_shot(tmp_path):
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")

    def scene(rows):
        waves = torch.sin(0.3 * (y - rows)) + torch.sin(0.25 * x)
        return (128 + 50 * waves).round().to(torch.uint8).unsqueeze(2).expand(-1, -1, 3)

    write_image(tmp_path / "polyu" / "a_real.png", scene(0.5))
    write_image(tmp_path / "polyu" / "a_mean.png", scene(0.0))
    [(noisy, as_it_is)], [(_, in_place)] = (
        of(tmp_path, "polyu", n).pairs() for n in ("camera", "camera in place")
    )

    assert psnr(noisy, in_place) > psnr(noisy, as_it_is) + 10


def test_a_part_without_images_is_no_row(folder):
    assert [name for name, _ in of(folder, "polyu", "camera").parts([score(30.0)])] == ["polyu"]


def test_a_trial_can_be_cut_to_its_first_images(folder):
    trial = of(folder, "kodak24", "8-bit 25")

    assert [sample.name for sample in trial.first(2).samples] == ["a", "b"]
    assert len(trial.first(None).samples) == 7


def test_a_trial_opens_an_image_only_when_it_is_its_turn():
    class Opened(Exception):
        pass

    def refuse():
        raise Opened

    samples = [Sample("x", lambda: (torch.zeros(1), torch.zeros(1))), Sample("y", refuse)]
    pairs = Trial("set", "noise", samples).pairs()

    next(pairs)
    with pytest.raises(Opened):
        next(pairs)


def test_recorded_pairs_are_named_by_file_or_by_number(folder):
    assert [sample.name for sample in recorded(folder / "polyu").samples] == list(NAMES)
    assert [sample.name for sample in recorded(folder / "paper" / "val.pkl").samples] == ["1", "2", "3", "4"]
