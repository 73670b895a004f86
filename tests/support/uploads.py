"""Uploads, as a server hands them on."""


class Upload:
    """Chunks as a server hands them on; `taken` counts those that were asked for."""

    def __init__(self, *chunks):
        self.chunks, self.taken = chunks, 0

    async def receive(self):
        chunk = self.chunks[self.taken]
        self.taken += 1
        return {"type": "http.request", "body": chunk, "more_body": self.taken < len(self.chunks)}
