import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.adaptation.doctor.findings import Finding
from engine.adaptation.gate import judge
from engine.adaptation.quality import gain
from engine.adaptation.report import make_report, to_html, to_json
from engine.adaptation.scenes import LeftOut
from tests.support.html_page import Page

SCRIPT = '<script>alert("1")</script>&\''


@pytest.fixture
def report(adaptation, shots):
    return make_report(replace(adaptation, shots=shots))


@pytest.fixture
def text(report):
    """What a reader sees."""
    return " ".join(" ".join(Page(to_html(report)).text).split())


def strict(text):
    """JSON without NaN and infinity."""
    return json.loads(text, parse_constant=pytest.fail)


def test_the_page_needs_nothing_from_elsewhere(report):
    html = to_html(report)
    page = Page(html)

    assert html.startswith("<!doctype html>")
    assert not page.all("script")
    assert not page.all("link")
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert "http:" not in html
    assert "https:" not in html
    assert "url(" not in html


def test_numbers_of_the_gain_appear_as_given(text, adaptation):
    verdict = adaptation.verdict

    for estimate in (verdict.before, verdict.after, verdict.improvement, *verdict.thirds[:2]):
        assert f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})" in text
    for part in (0, 1):
        for denoiser in (0, 1):
            assert f"{gain(adaptation.errors, denoiser, part).value:.2f}" in text
    assert "too few pixels" in text


def test_what_came_in_and_what_was_found_are_shown(text):
    for words in (
        "3 pairs; 6 noisy shots", "cell 2", "640 x 480", "12.3", "notes.txt", "not an image, by its suffix",
        "cell 1_2.tif", "0.312 ± 0.004", "lies +0.31 pixels down", "record about 3 more",
    ):  # fmt: skip
        assert words in text


def test_each_channel_of_colour_has_its_law(adaptation):
    text = " ".join(Page(to_html(make_report(replace(adaptation, laws=adaptation.laws * 3)))).text)

    for channel in ("red", "green", "blue"):
        assert f"{channel}: variance = 2 × (sample − 100) + 16" in text
        assert f"{channel}: measured" in text


def test_law_and_correlation_are_shown_with_their_errors(text):
    for words in (
        "variance = 2 × (sample − 100) + 16", "2 (1.9 to 2.1)", "100 (90 to not known)",
        "0.012 ± 0.004", "0 down, 1 across", "0.620 ± 0.005", "3 apart",
    ):  # fmt: skip
        assert words in text


def test_noise_that_lasts_is_drawn_and_other_noise_is_not(examination):
    lasting = make_report(examination)
    scenes = tuple(replace(each, lag=each.lag and replace(each.lag, first=1)) for each in examination.scenes)
    other = make_report(replace(examination, scenes=scenes))

    assert "shots apart" in to_html(lasting)
    assert "shots apart" not in to_html(other)


def test_zero_has_no_sign(examination):
    scene = examination.scenes[0]
    scene = replace(scene, correlation=replace(scene.correlation, value=-0.0001))

    html = to_html(make_report(replace(examination, scenes=(scene,))))

    assert "0.000 ± 0.004" in html
    assert "-0.000" not in html


def test_the_report_says_how_to_repeat_it(text, adaptation):
    for words in (
        adaptation.command, adaptation.digest, adaptation.start_digest, "photo-grey", "1234", "2.13.0",
        (bytes([1, 2]) * 16).hex(),
    ):  # fmt: skip
        assert words in text


def test_structure_in_the_residual_is_said(adaptation, shots, text):
    blurred = tuple(replace(shot, denoised=0 * shot.denoised + shot.denoised.mean()) for shot in shots)

    assert "No structure is seen" in text
    assert "The residual has structure" in to_html(make_report(replace(adaptation, shots=blurred)))


def test_what_cannot_be_known_is_said(text, report):
    for note in report.values["notes"].values():
        assert note in text


def test_a_refusal_is_shown_with_its_reasons(adaptation, errors):
    worse = tuple(replace(each, denoised=each.denoised[::-1]) for each in errors)
    adaptation = replace(adaptation, errors=worse, verdict=judge(worse, (0.0, 1000.0)))

    text = " ".join(" ".join(Page(to_html(make_report(adaptation))).text).split())

    assert "Do not publish these weights" in text
    assert adaptation.verdict.reasons
    for reason in adaptation.verdict.reasons:
        assert reason in text


def test_json_has_the_same_numbers(report, adaptation):
    found = strict(to_json(report))

    assert found == report.values
    assert found["gain"]["after"]["value"] == adaptation.verdict.after.value
    assert found["law"][0]["gain"] == {"value": 2.0, "low": 1.9, "high": 2.1}
    assert found["law"][0]["pedestal"]["high"] is None
    assert found["findings"][0]["number"] == 0.3123
    assert found["curve"][4]["gain"]["value"] == 14
    assert found["residual"]["values"][8][8] == 1
    assert found["repeat"]["seed"] == 1234


def test_one_held_out_scene_has_no_interval(adaptation, errors):
    alone = replace(
        adaptation, errors=errors[:1], held_out=("cell 1",), verdict=judge(errors[:1], (0.0, 1000.0)), curve=()
    )
    report = make_report(alone)

    assert strict(to_json(report))["gain"]["after"]["low"] is None
    html = to_html(report)
    assert "interval not known" in html
    assert "inf" not in "".join(Page(html).text).replace("information", "")


def test_names_are_text_and_not_markup(adaptation, shots):
    examination = adaptation.examination
    scene = replace(examination.scenes[0].scene, name=SCRIPT)
    nasty = replace(
        examination,
        folder=Path(f"/data/{SCRIPT}"),
        scenes=(replace(examination.scenes[0], scene=replace(scene, shots=()), shots=()),),
        findings=(Finding(SCRIPT, "shift", "noted", SCRIPT, float("nan")),),
        left_out=(LeftOut(Path(f"/data/{SCRIPT}") / SCRIPT, SCRIPT),),
    )
    adaptation = replace(adaptation, examination=nasty, command=SCRIPT, held_out=(SCRIPT,), judged_by=SCRIPT)

    report = make_report(replace(adaptation, shots=(replace(shots[0], name=SCRIPT),)))
    page = Page(to_html(report))

    assert not page.all("script")
    assert sum(SCRIPT in text for text in page.text) >= 7
    assert page.all("img")[0]["alt"] == f"{SCRIPT}, noisy"
    assert strict(to_json(report))["findings"][0]["number"] is None


def test_an_examination_alone_has_a_report(examination):
    report = make_report(examination)
    found = strict(to_json(report))

    assert found["gain"] is None
    assert found["residual"] is None
    assert found["law"]
    assert "Nothing was trained" in "".join(Page(to_html(report)).text)


def test_a_folder_without_a_law_can_be_reported(examination):
    bare = replace(
        examination,
        scenes=tuple(replace(each, laws=(), correlation=None, lag=None) for each in examination.scenes),
        findings=(),
        left_out=(),
    )
    text = " ".join(Page(to_html(make_report(bare))).text)

    assert "No law of the noise" in text
    assert "It was not measured" in text


def test_the_page_follows_the_readers_light_or_dark(report):
    html = to_html(report)

    assert "prefers-color-scheme: dark" in html
    assert "color-scheme: light dark" in html


def test_every_id_is_unique_and_every_image_described(report):
    page = Page(to_html(report))
    ids = [attributes["id"] for _, attributes in page.seen if "id" in attributes]

    assert len(ids) == len(set(ids))
    assert len(page.all("img")) == 4 * len(report.crops)
    assert all(image["alt"] for image in page.all("img"))
    assert all(drawing.get("aria-label") or drawing.get("aria-hidden") for drawing in page.all("svg"))
    assert [int(image["width"]) for image in page.all("img")] == [224] * len(page.all("img"))
