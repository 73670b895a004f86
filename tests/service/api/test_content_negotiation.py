"""Which format an Accept header selects."""

import pytest

from service.api.content_negotiation import negotiate_format


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("", "png"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("image/webp,*/*", "png"),
        ("image/webp,*/*;q=0.9", "webp"),
        ("image/*;q=0.5, image/tiff;q=0.8, image/avif;q=0.2", "tiff"),
        ("image/png;q=0, image/*", "jpeg"),
        ("image/png;q=nonsense, image/avif", "avif"),
    ],
)
def test_an_accept_header_selects_the_preferred_format(header, kind):
    assert negotiate_format(header) == kind
