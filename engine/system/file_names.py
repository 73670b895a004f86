"""File names, as systems compare them."""

import unicodedata


def name_key(name: str) -> str:
    """The same for all names that some system takes for one.

    Windows and macOS do not distinguish upper and lower case. To macOS, a letter with an accent is the same as a
    letter and an accent that follows it.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
