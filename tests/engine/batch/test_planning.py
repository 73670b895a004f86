"""Batch planning: names of outputs, and what is refused."""

import imagecodecs
import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from engine.batch.finding import PIPE, files_of, find_images
from engine.batch.planning import Task, has_whole_name, is_folder, plan_tasks, tasks_for
from tests.support.czi_files import Tile, czi_file
from tests.support.images import gradient
from tests.support.nd2_files import nd2_file


def test_images_of_a_folder_keep_their_names_and_formats(shots, tmp_path):
    tasks = plan_tasks([shots], tmp_path / "clean")

    assert tasks == [
        Task(shots / "a.png", tmp_path / "clean" / "a.png"),
        Task(shots / "b.jpg", tmp_path / "clean" / "b.jpg", "jpeg"),
    ]


def test_one_image_without_an_output_is_written_beside_itself(shots):
    [task] = plan_tasks([shots / "b.jpg"], None)
    [other] = plan_tasks([shots / "b.jpg"], None, format_="tiff")

    assert (task.target, task.format) == (shots / "b.denoised.jpg", "jpeg")
    assert (other.target, other.format) == (shots / "b.denoised.tif", "tiff")


@pytest.mark.parametrize(
    ("name", "kind", "made", "format_"),
    [
        ("a.jfif", "JPEG", "a.jfif", "jpeg"),
        ("a.jpe", "JPEG", "a.jpe", "jpeg"),
        ("scan", "JPEG", "scan.jpg", "jpeg"),
        ("a.webp", "WEBP", "a.webp", "webp"),
        ("a.tiff", "TIFF", "a.tiff", "tiff"),
        ("a.avif", "AVIF", "a.avif", "avif"),
        ("a.bmp", "BMP", "a.png", "png"),
        ("a.gif", "GIF", "a.png", "png"),
        ("a.ppm", "PPM", "a.png", "png"),
        ("a.jpg", "PNG", "a.png", "png"),
    ],
)
def test_an_image_keeps_its_format_where_it_is_written(name, kind, made, format_, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(gradient()).save(tmp_path / "in" / name, kind)

    [task] = plan_tasks([tmp_path / "in"], tmp_path / "clean")

    assert (task.target.name, task.format) == (made, format_)


def test_pages_become_tiff_and_deep_colours_png(tmp_path):
    grey = b"P5 2 2 255\n" + bytes(4)
    (tmp_path / "pages.pgm").write_bytes(grey + grey)
    deep = imagecodecs.avif_encode(np.zeros((8, 8, 3), np.uint16), bitspersample=10)
    (tmp_path / "deep.avif").write_bytes(deep)

    tasks = plan_tasks([tmp_path], tmp_path / "clean")

    assert [task.target.name for task in tasks] == ["deep.png", "pages.tif"]


def test_images_of_measurements_become_tiff(tmp_path):
    plane = np.zeros((8, 9), np.uint16)
    (tmp_path / "a.czi").write_bytes(czi_file(Tile(plane)))
    (tmp_path / "a.nd2").write_bytes(nd2_file(plane[None, ..., None]))
    (tmp_path / "a.pfm").write_bytes(b"Pf\n9 8\n-1\n" + bytes(4 * 72))
    fits.PrimaryHDU(plane).writeto(tmp_path / "a.fits")

    tasks = plan_tasks([tmp_path], tmp_path / "clean")

    assert [task.format for task in tasks] == ["tiff"] * 4
    assert [task.target.name for task in tasks] == ["a.czi.tif", "a.fits.tif", "a.nd2.tif", "a.pfm.tif"]


def test_files_that_are_not_images_are_left_out(shots):
    (shots / "notes.txt").touch()
    (shots / "LICENSE").write_text("no image")
    (shots / ".hidden").touch()
    (shots / "sub").mkdir()

    found = find_images(shots)

    assert [path.name for path in found.images] == ["a.png", "b.jpg"]
    assert [path.name for path in found.left_out] == ["LICENSE", "notes.txt"]
    assert [path.name for path in found.folders] == ["sub"]


def test_subfolders_are_kept_in_the_output(shots, tmp_path):
    (shots / "x" / "y").mkdir(parents=True)
    (shots / "x" / "y" / "a.png").write_bytes((shots / "a.png").read_bytes())
    clean = shots / "clean"
    clean.mkdir()
    (clean / "old.png").write_bytes((shots / "a.png").read_bytes())

    tasks = plan_tasks([shots], clean, recursive=True)

    targets = [task.target.relative_to(clean).as_posix() for task in tasks]
    assert targets == ["a.png", "b.jpg", "x/y/a.png"]


def test_a_folder_with_images_in_subfolders_alone_says_so(tmp_path):
    (tmp_path / "sub").mkdir()

    with pytest.raises(ValueError, match="no images in this folder; its subfolders were not searched"):
        plan_tasks([tmp_path], tmp_path / "clean")


def test_one_image_may_have_an_output_name(shots, tmp_path):
    assert plan_tasks([shots / "b.jpg"], tmp_path / "x.png") == [Task(shots / "b.jpg", tmp_path / "x.png")]


def test_the_suffix_of_the_output_decides_its_format(shots, tmp_path):
    assert plan_tasks([shots / "b.jpg"], tmp_path / "x.tiff")[0].format == "tiff"
    assert plan_tasks([shots / "b.jpg"], tmp_path / "x.JPG")[0].format == "jpeg"
    assert plan_tasks([shots / "b.jpg"], PIPE, format_="webp")[0].format == "webp"
    with pytest.raises(ValueError, match=r"x\.png: the suffix does not fit the format webp; it must be \.webp"):
        plan_tasks([shots / "b.jpg"], tmp_path / "x.png", format_="webp")


def test_outputs_get_the_suffix_of_the_format_or_keep_theirs(shots, tmp_path):
    made = [task.target.name for task in plan_tasks([shots], tmp_path / "clean", format_="webp")]
    kept = [task.target.name for task in plan_tasks([shots], tmp_path / "clean", format_="same")]

    assert made == ["a.webp", "b.webp"]
    assert kept == ["a.png", "b.jpg"]


def test_names_that_differ_only_in_their_accents_clash(shots, tmp_path):
    for name in ("\u00e9.png", "e\u0301.png"):
        (shots / name).write_bytes((shots / "a.png").read_bytes())

    with pytest.raises(ValueError, match="would be written to the same output"):
        plan_tasks([shots], tmp_path / "clean")


def test_an_existing_folder_may_have_a_suffix(shots, tmp_path):
    (tmp_path / "v1.2").mkdir()

    assert plan_tasks([shots / "b.jpg"], tmp_path / "v1.2") == [
        Task(shots / "b.jpg", tmp_path / "v1.2" / "b.jpg", "jpeg")
    ]


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["a.png", "b.jpg"], "x.png", "is one file, but the inputs may be several images; give an output folder"),
        ([""], "x.png", "is one file, but"),
        (["a.png"], "x.gif", r"x\.gif: images cannot be written with the suffix \.gif\. "),
        (["a.png", "none.png"], "clean", r"none\.png: no such file or folder"),
        (["a.png"], "plain", "is a file, not a folder; give another folder, or a file name like"),
        (["a.png", "sub/A.png"], "clean", r"would be written to the same output: .*a\.png, .*A\.png"),
        (["a.png"], "clean.v2", r"suffix \.v2\. .*If you mean a folder, end its name with a slash: .*clean\.v2/"),
        (["a.png"], "folders", r"exist already, as folders: .*a\.png; choose another output"),
        (["a.png"], "there", r"these outputs exist already: .*a\.png\. Replace them with --force"),
    ],
)
def test_an_impossible_plan_is_refused(shots, tmp_path, inputs, output, message):
    (shots / "sub").mkdir()
    (shots / "sub" / "A.png").touch()
    (tmp_path / "folders" / "a.png").mkdir(parents=True)
    (tmp_path / "plain").touch()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.png").touch()

    with pytest.raises(ValueError, match=message):
        plan_tasks([shots / name for name in inputs], tmp_path / output)


@pytest.mark.parametrize("name", ["scans.clean/", "x.png/", "scans.clean//"])
def test_a_name_with_a_slash_at_its_end_is_a_folder(shots, tmp_path, name):
    [task] = plan_tasks([shots / "b.jpg"], f"{tmp_path}/{name}")

    assert task.target == tmp_path / name / "b.jpg"
    assert is_folder(name)
    assert not is_folder(name.rstrip("/"))


def test_a_file_is_no_folder_even_with_a_slash(shots):
    with pytest.raises(ValueError, match=r"a\.png is a file, not a folder"):
        plan_tasks([shots / "b.jpg"], f"{shots / 'a.png'}/")


def test_folders_with_an_image_s_name_are_no_inputs(shots, tmp_path):
    (shots / "dir.png").mkdir()

    assert [task.source.name for task in plan_tasks([shots], tmp_path / "clean")] == ["a.png", "b.jpg"]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (["a.dng", "a.jpg"], ["a.dng.png", "a.jpg.png"]),
        (["a.jpg", "a.png", "b.jpg"], ["a.jpg.png", "a.png.png", "b.png"]),
        (["A.jpg", "a.tif"], ["A.jpg.png", "a.tif.png"]),
        (["a.jpg", "a.jpg.tif", "a.tif"], ["a.jpg.png", "a.jpg.tif.png", "a.tif.png"]),
    ],
)
def test_images_of_one_name_keep_their_suffix(given, made, tmp_path):
    tasks = tasks_for(tmp_path, [tmp_path / name for name in given], "png")

    assert [task.target.name for task in tasks] == made
    assert [task.source.name for task in tasks if has_whole_name(task)] == [n for n in given if n[0] != "b"]


def test_images_of_one_name_in_their_own_format_keep_their_names(tmp_path):
    tasks = tasks_for(tmp_path, [tmp_path / "a.jpg", tmp_path / "a.png"], "same")

    assert [task.target.name for task in tasks] == ["a.jpg", "a.png"]
    assert not any(map(has_whole_name, tasks))


def test_outputs_may_be_overwritten_if_allowed(shots):
    assert plan_tasks([shots / "a.png"], shots, overwrite=True) == [Task(shots / "a.png", shots / "a.png")]


def test_an_image_from_standard_input_needs_an_output_name(tmp_path):
    with pytest.raises(ValueError, match=r"from standard input has no name"):
        plan_tasks([PIPE], tmp_path)


def test_earlier_results_beside_their_sources_are_left_out(shots):
    (shots / "a.denoised.png").write_bytes((shots / "a.png").read_bytes())
    (shots / "other.denoised.png").write_bytes((shots / "a.png").read_bytes())

    found = find_images(shots)

    assert [file.name for file in found.images] == ["a.png", "b.jpg", "other.denoised.png"]
    assert found.results == [shots / "a.denoised.png"]
    assert files_of([shots / "a.denoised.png"]) == [shots / "a.denoised.png"]
