"""A client that sends its image and goes away."""


async def post_and_leave(app, body):
    """What the application then sends to nobody."""
    messages, sent = iter([{"type": "http.request", "body": body}, {"type": "http.disconnect"}]), []

    async def receive():
        return next(messages)

    async def send(message):
        sent.append(message)

    async with app.router.lifespan_context(app) as state:
        scope = {"type": "http", "method": "POST", "path": "/denoise", "query_string": b"", "headers": []}
        await app({**scope, "state": dict(state)}, receive, send)
    return sent
