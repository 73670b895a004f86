"""The web page: GET / and the headers that confine its scripts."""

from pathlib import Path

from fastapi import APIRouter, Request, Response

from service.middleware.etag import with_etag

FOLDER = Path(__file__).parents[1] / "page"
# The page loads nothing from other sites and runs only its own script file.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}

router = APIRouter()


@router.get("/", include_in_schema=False)
def get_page(request: Request) -> Response:
    """The web page."""
    html = (FOLDER / "index.html").read_bytes()
    return with_etag(request, Response(html, media_type="text/html", headers=HEADERS))
