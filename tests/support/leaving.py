"""A client that sends its image and disconnects before the response."""


async def post_and_leave(app, body):
    """Returns the messages that the application sends after the client has disconnected."""
    messages, sent = iter([{"type": "http.request", "body": body}, {"type": "http.disconnect"}]), []

    async def receive():
        return next(messages)

    async def send(message):
        sent.append(message)

    async with app.router.lifespan_context(app) as state:
        scope = {"type": "http", "method": "POST", "path": "/denoise", "query_string": b"", "headers": []}
        await app({**scope, "state": dict(state)}, receive, send)
    return sent
