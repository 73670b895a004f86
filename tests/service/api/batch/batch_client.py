"""Requests of a batch in its three forms, and its answer."""

import io
import zipfile


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files:
            archive.writestr(name, data)
    return file.getvalue()


def as_form(files):
    return {"files": [("image", file) for file in files]}


def as_zip(files):
    return {"content": zipped(files), "headers": {"content-type": "application/zip"}}


def as_zip_in_form(files):
    return {"files": {"image": ("shots.zip", zipped(files))}}


WAYS = [as_form, as_zip, as_zip_in_form]


def unzipped(response):
    """Name and bytes of each file of the answer, in its order."""
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        return [(info.filename, archive.read(info)) for info in archive.infolist()]
