"""The examples in the documents."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The address of the service in the examples.
ADDRESS = "http://127.0.0.1:8000"


def blocks(document, language):
    """The code blocks of a document in one language, in order."""
    text = (ROOT / document).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
