import pytest

from engine.adaptation.gate import judge
from engine.adaptation.quality import SceneError

LIMITS = (0.0, 1.0)
EVEN = (1 / 3, 1 / 3, 1 / 3)


def scenes(before, after, count=8, bias=0.0, spread=0.01, counts=EVEN):
    """Errors in thirds; those of each scene are a little different."""
    return [
        SceneError(
            (0.01, 0.01, 0.01),
            tuple(tuple(each * (1 + spread * (number % 3 - 1)) for each in errors) for errors in (before, after)),
            counts,
            (0.0, bias),
        )
        for number in range(count)
    ]


def test_better_weights_pass():
    verdict = judge(scenes((0.002, 0.002, 0.002), (0.001, 0.001, 0.001)), LIMITS)

    assert verdict.passed
    assert verdict.improvement.value == pytest.approx(3.01, abs=0.01)
    assert verdict.before.value == pytest.approx(6.99, abs=0.01)
    assert verdict.after.value == pytest.approx(10, abs=0.01)


def test_weights_that_may_be_worse_do_not_pass():
    verdict = judge(scenes((0.002,) * 3, (0.002,) * 3, spread=0.2), LIMITS)

    assert not verdict.passed
    assert "not better with 95 % confidence" in verdict.reasons[0]


def test_a_loss_in_one_third_does_not_pass():
    verdict = judge(scenes((0.002, 0.002, 0.001), (0.001, 0.001, 0.0011)), LIMITS)

    assert verdict.reasons == (
        "The brightest third of the brightness range loses 0.41 dB, and at most 0.1 dB are allowed.",
    )


def test_a_third_of_few_pixels_is_not_judged():
    verdict = judge(scenes((0.002, 0.002, 0.001), (0.001, 0.001, 0.0011), counts=(0.5, 0.49, 0.01)), LIMITS)

    assert verdict.passed
    assert verdict.thirds[2] is None


def test_a_mean_that_moves_does_not_pass():
    verdict = judge(scenes((0.002,) * 3, (0.001,) * 3, bias=-0.003), LIMITS)

    assert verdict.reasons == (
        "The mean of a scene changes by 0.3 % of the brightness range, and at most 0.1 % is allowed.",
    )


def test_one_scene_is_too_few():
    verdict = judge(scenes((0.002,) * 3, (0.001,) * 3, count=1), LIMITS)

    assert "Only 1 scene was held out" in verdict.reasons[0]
    assert "3.01 dB (interval not known)" in verdict.reasons[1]


def test_no_scene_is_an_error():
    with pytest.raises(ValueError, match="No scene was held out"):
        judge([], LIMITS)
