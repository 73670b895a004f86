"""Finding images in buckets."""

import pytest

from engine.batch.finding import detected_format, files_of, find_images
from engine.batch.planning import is_folder, plan_tasks
from engine.storage.locations import location


@pytest.fixture
def scans(buckets, bucket, png):
    """A bucket with images in s3://.../scans."""
    for key in (
        "a.png",
        "b.jpg",
        "notes.txt",
        "noname",
        ".hidden.png",
        "deep/c.png",
        ".trash/d.png",
        "out/e.png",
    ):
        buckets.put(bucket, f"scans/{key}", png)
    buckets.put(bucket, "scans/nothing", b"text")
    return location(f"s3://{bucket}/scans")


def names(paths, folder):
    return [str(path.relative_to(folder)) for path in paths]


def test_images_in_a_bucket_are_found_as_in_a_folder(scans):
    found = find_images(scans)

    assert names(found.images, scans) == ["a.png", "b.jpg", "noname"]
    assert names(found.left_out, scans) == ["notes.txt", "nothing"]
    assert names(found.folders, scans) == ["deep", "out"]


def test_subfolders_of_a_bucket_are_searched_but_for_the_outputs(scans):
    found = find_images(scans, recursive=True, skip=scans / "out")

    assert names(found.images, scans) == ["a.png", "b.jpg", "deep/c.png", "noname"]
    assert names(find_images(scans, skip=scans / "out").folders, scans) == ["deep"]


def test_a_bucket_without_images_is_told(scans):
    with pytest.raises(ValueError, match=r"s3://.*/none: no images in this folder\. Supported"):
        files_of([scans.parent / "none"])
    assert files_of([scans / "a.png"]) == [scans / "a.png"]


def test_the_suffix_of_an_object_tells_its_format(scans):
    assert detected_format(scans / "b.jpg").name == "jpeg"
    assert detected_format(scans / "noname").name == "png"
    assert detected_format(scans / "none") is None


def test_tasks_lead_from_bucket_to_bucket(scans, bucket):
    clean = location(f"s3://{bucket}/clean")

    tasks = plan_tasks([scans], clean, recursive=True, format_="png")

    targets = [str(task.target.relative_to(clean)) for task in tasks]
    assert targets == ["a.png", "b.png", "noname.png", "deep/c.png", "out/e.png"]
    assert all(is_folder(url) for url in ("s3://x", "s3://x/y", "s3://x/y.clean/"))
    assert not is_folder("s3://x/y.png")


def test_outputs_that_exist_in_a_bucket_are_refused(scans, buckets, bucket, png):
    buckets.put(bucket, "clean/a.png", png)
    clean = location(f"s3://{bucket}/clean")

    with pytest.raises(ValueError, match=r"these outputs exist already: s3://.*/clean/a\.png\. Replace"):
        plan_tasks([scans], clean)
    assert plan_tasks([scans], location(str(clean)), overwrite=True)


def test_names_of_objects_differ_in_every_letter(buckets, bucket, png):
    for key in ("in/a.png", "in/A.png"):
        buckets.put(bucket, key, png)

    tasks = plan_tasks([location(f"s3://{bucket}/in")], location(f"s3://{bucket}/clean"))

    assert [task.target.name for task in tasks] == ["A.png", "a.png"]
