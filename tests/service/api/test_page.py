"""The page: what it may load, and how it is cached."""

import pytest


def test_the_page_runs_only_scripts_of_the_service(client):
    page = client.get("/")

    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "<script src=" in page.text
    assert "style=" not in page.text
    assert "://" not in page.text
    for name in ("page.js", "page.css", "icon.svg"):
        assert f"page/{name}" in page.text
        assert client.get(f"/page/{name}").status_code == 200


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/page/page.css", "/page/icon.svg"])
def test_the_page_is_revalidated_by_its_etag(path, client):
    page = client.get(path)

    again = client.get(path, headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "no-cache" in page.headers["cache-control"]
    assert again.headers["cache-control"] == page.headers["cache-control"]
