"""Long work: it is left here, and its result fetched later."""
