import base64
import io
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from engine.evaluation import html_report
from engine.evaluation.benchmarks import Trial
from engine.evaluation.evaluate import Result, Score
from engine.evaluation.html_report import Section, new_example, write_report
from engine.evaluation.metrics import psnr
from engine.evaluation.psnr_chart import Dot, Line, draw_chart
from engine.evaluation.samples import Sample
from tests.support.html_page import Page


def result(seed=0, side=(40, 48), error=0.05, noise=0.1):
    rng = torch.Generator().manual_seed(seed)
    clean = torch.rand(*side, 3, generator=rng)
    noisy = clean + noise * torch.randn(clean.shape, generator=rng)
    denoised = (clean + error * torch.randn(clean.shape, generator=rng)).clamp(0, 1)
    score = Score(psnr(noisy, clean), 0.5, psnr(denoised, clean), 0.9, side[0] * side[1], 0.1)
    return Result(noisy, clean, denoised, score)


def section(errors=(0.05,), noise="white 25", level=25.0, set_="set", names=None):
    """A trial whose images have these errors left."""
    names = names or [f"image {n}" for n in range(len(errors))]
    samples = [Sample(name, lambda: (torch.zeros(1), torch.zeros(1))) for name in names]
    made = Section(Trial(set_, noise, samples, level))
    for seed, error in enumerate(errors):
        made.add(result(seed, error=error))
    return made


def page(tmp_path, *sections):
    write_report(tmp_path / "out" / "index.html", "A <title>", "about & more", sections)
    return Page((tmp_path / "out" / "index.html").read_text("utf-8"))


def pixels(image):
    head, data = image["src"].split(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
        return np.asarray(opened)


# Examples


def test_crops_show_the_largest_error_and_the_most_detail(monkeypatch):
    monkeypatch.setattr(html_report, "CROP_SIDE", 8)
    clean = torch.full((40, 48, 3), 0.5)
    clean[4:12:2, 4:12] = 0.9
    denoised = clean.clone()
    denoised[30:38, 20:28] += 0.2
    noisy = clean + 0.1

    shown = new_example(Result(noisy, clean, denoised, Score(20, 1, 20, 1, 1, 1)))

    error, detail = shown.crops
    assert (error.reason, error.top, error.left) == ("largest error", 30, 20)
    assert detail.reason == "most detail"
    assert abs(detail.top - 4) <= 2
    assert detail.left == 4
    assert error.clean.shape == (8, 8, 3)
    assert int(error.denoised[0, 0, 0]) == round(0.7 * 255)
    # Half an image's residual is lighter than grey, the part that came out too light darker.
    assert int(detail.residual[0, 0, 0]) > 128 > int(error.residual[0, 0, 0])


def test_an_image_that_fits_is_shown_once_and_whole():
    shown = new_example(result(side=(20, 30)))

    assert [(crop.reason, tuple(crop.clean.shape)) for crop in shown.crops] == [("largest error", (20, 30, 3))]


def test_the_residual_is_amplified_up_to_a_limit():
    assert new_example(result(error=0, noise=0.1)).amplification == pytest.approx(0.5 / 0.3, rel=0.1)
    assert new_example(result(error=0, noise=0.0)).amplification == 16


def test_only_the_worst_images_are_shown_worst_first(monkeypatch):
    monkeypatch.setattr(html_report, "EXAMPLES", 2)

    made = section([0.01, 0.09, 0.02, 0.08, 0.03])

    assert list(made.examples()) == [1, 3]
    assert [name for _, name, _ in made.images()] == [f"image {n}" for n in (1, 3, 4, 2, 0)]


# The page


def test_the_page_has_a_row_for_each_image_with_the_worst_first(tmp_path):
    made = section([0.02, 0.06, 0.04])

    text = "".join(page(tmp_path, made).text)

    positions = [text.index(f"image {n}") for n in (1, 2, 0)]
    assert positions == sorted(positions)
    for score in made.scores:
        assert f"{score.psnr:.2f}" in text
        assert f"{score.psnr - score.noisy_psnr:+.2f}" in text


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    found = page(tmp_path, section())

    assert not found.all("script")
    assert not found.all("link")
    assert all(image["src"].startswith("data:image/png;base64,") for image in found.all("img"))
    assert all(link["href"].startswith("#") for link in found.all("a"))
    text = (tmp_path / "out" / "index.html").read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["index.html"]


def test_every_link_has_its_target_and_every_id_is_unique(tmp_path):
    found = page(tmp_path, section([0.02, 0.05]), section([0.03], "camera", None))

    ids = [attrs["id"] for _, attrs in found.seen if "id" in attrs]
    assert {link["href"][1:] for link in found.all("a")} <= set(ids)
    assert len(ids) == len(set(ids))


def test_every_image_has_its_size_and_a_description(tmp_path):
    images = page(tmp_path, section(names=["an image"])).all("img")

    assert len(images) == 4
    for image, kind in zip(images, ("noisy", "denoised", "noisy - denoised", "clean"), strict=True):
        assert image["alt"].startswith(f"an image, {kind}")
        assert image["alt"].endswith("at the largest error")
        assert pixels(image).shape == (40, 48, 3)
        assert int(image["width"]) / int(image["height"]) == pytest.approx(48 / 40)


def test_names_are_text_and_not_markup(tmp_path):
    name = '<script>alert("1")</script>&\''

    found = page(tmp_path, section(names=[name], set_=name))

    assert not found.all("script")
    assert name in found.text
    assert found.all("img")[0]["alt"].startswith(f"{name}, noisy")
    assert "A <title>" in found.text
    assert "about & more" in found.text


def test_the_page_follows_the_readers_light_or_dark(tmp_path):
    style = "".join(page(tmp_path, section()).text)

    assert "prefers-color-scheme: dark" in style
    colours = [set(re.findall(r"(--\w+): #", part)) for part in style.split("@media")[:2]]
    assert colours[0] == colours[1]


def test_images_without_noise_have_no_gain_and_no_dot(tmp_path):
    samples = [Sample("x", lambda: (torch.zeros(1), torch.zeros(1)))]
    made = Section(Trial("set", "none", samples))
    clean = torch.rand(20, 20, 3)
    made.add(Result(clean, clean, clean, Score(100.0, 1, 51.25, 1, 400, 0.1)))

    found = page(tmp_path, made)

    assert "51.25" in found.text
    assert "-48.75" not in found.text
    assert not found.all("svg")


def test_a_section_without_images_is_left_out(tmp_path):
    found = page(tmp_path, section(), section([], set_="empty"))

    assert not any("empty" in text for text in found.text)


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    page(tmp_path, section())
    before = (tmp_path / "out" / "index.html").read_bytes()

    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("No space left")))
    with pytest.raises(OSError, match="No space left"):
        page(tmp_path, section([0.2]))

    assert (tmp_path / "out" / "index.html").read_bytes() == before
    assert len(list((tmp_path / "out").iterdir())) == 1


# The plot


def test_a_dots_sigma_is_that_of_its_noise():
    assert Dot.of(20 * math.log10(255 / 25), 30.0) == pytest.approx((25, 30))


def test_levels_of_one_set_are_one_line_in_the_plot(tmp_path):
    found = page(
        tmp_path,
        section([0.05], "white 15", 15.0),
        section([0.06], "white 25", 25.0),
        section([0.05], "camera", None),
    )

    [plot, *_] = found.all("svg")
    assert plot["role"] == "img"
    assert plot["aria-label"]
    assert "set, camera" in found.text
    assert len(found.all("g")) == 2


def test_a_plots_line_goes_through_its_means_from_left_to_right():
    chart = draw_chart([Line("a & b", [Dot(25, 31)], [Dot(15, 34), Dot(25, 31), Dot(50, 28)])])

    [line] = re.findall(r'class="line" d="M([^"]*)"', chart)
    points = [tuple(map(float, point.split())) for point in line.split("L")]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    # Less PSNR is further down.
    assert [y for _, y in points] == sorted(y for _, y in points)
    assert "a &amp; b" in chart
    assert chart.count("<circle") == 1


def test_everything_in_a_plot_lies_within_it():
    chart = draw_chart([Line("x", [Dot(0.5, 55.0), Dot(80, 10.1)], [Dot(40, 30)]), Line("y", [], [Dot(10, 38)])])

    for x, y in re.findall(r'cx="([^"]*)" cy="([^"]*)"', chart):
        assert 50 <= float(x) <= 700
        assert 20 <= float(y) <= 355


def test_a_plot_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no dots"):
        draw_chart([])


# Measured images


def test_figures_of_measured_images_are_shown_for_them_alone(tmp_path):
    plain, measured = section((0.05,)), section((0.05, 0.1), noise="photons", level=None, set_="stars")
    measured.scores[:] = [
        replace(score, figures={"rmse": 0.01 * n, "fitted_gain": 3.0}) for n, score in enumerate(measured.scores)
    ]

    page(tmp_path, plain, measured)
    file = tmp_path / "out" / "index.html"
    text = file.read_text()

    assert text.count('<th scope="col">fitted gain</th>') == 1
    assert text.count("Means over measured images") == 2
    assert "rmse 0.005, fitted gain 3" in text
    assert "stars" not in text[text.index("<svg") : text.index("</svg>")]
    page(tmp_path, plain)
    assert "Means over measured images" not in file.read_text()
