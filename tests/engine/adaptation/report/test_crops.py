from dataclasses import replace

import torch

from engine.adaptation.report.crops import MAX_SHOTS, SIDE, crops_of


def test_crops_show_structure_and_detail_at_full_size(shots):
    shot = shots[0]
    noisy, denoised = shot.noisy.clone(), shot.denoised.clone()
    noisy[250:290, 260:310] += 300
    denoised[0:20:2, 0:20] += 400
    noisy[0:20:2, 0:20] += 400

    structure, detail = crops_of([replace(shot, noisy=noisy, denoised=denoised)])

    assert structure.reason == "most structure in the residual"
    assert structure.top <= 250 <= 290 <= structure.top + SIDE
    assert detail.reason == "most detail"
    assert (detail.top, detail.left) == (0, 0)
    assert [caption.split(":")[0] for caption, _ in detail.images] == ["noisy", "before", "denoised", "residual"]
    assert all(samples.shape == (SIDE, SIDE, 1) for _, samples in detail.images)
    assert all(samples.dtype == torch.uint8 for _, samples in detail.images)


def test_the_contrast_fits_16_bit_counts(shots):
    crop = crops_of(shots)[0]

    noisy, _, denoised, residual = (samples.float() for _, samples in crop.images)

    assert 0 < crop.black < 400 < crop.white < 1000
    # The denoised image uses most of the range, and the residual lies around grey.
    assert denoised.max() - denoised.min() > 180
    assert abs(float(residual.mean()) - 127.5) < 3
    assert noisy.std() > denoised.std() / 2


def test_an_even_image_without_noise_can_be_shown(shots):
    even = torch.full((40, 50, 1), 7.0)

    crops = crops_of([replace(shots[0], noisy=even, denoised=even, before=None)])

    assert [tuple(samples.shape) for _, samples in crops[0].images] == [(40, 50, 1)] * 3
    assert crops[0].black < 7 < crops[0].white


def test_only_some_shots_are_shown(shots):
    small = [
        replace(shots[0], noisy=s.noisy[:40, :50], denoised=s.denoised[:40, :50], before=None) for s in shots
    ]

    assert len(crops_of(small * MAX_SHOTS)) == MAX_SHOTS
