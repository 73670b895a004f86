"""Health probe: asks /health ten times a second, each time on a new connection, and writes the response times.

It is a process of its own, so that the work of the load clients does not count. Arguments: port, file. A line of
the file has the time of the request, in seconds since the epoch, and the seconds until the response: inf if there
was no response, or if its status was not 200.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import TextIO

INTERVAL = 0.1  # seconds
TIMEOUT = 10.0  # seconds


async def seconds(port: int) -> float:
    """The response time of one request."""
    start = time.perf_counter()
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            succeeded = (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
    except OSError:
        return float("inf")
    return time.perf_counter() - start if succeeded else float("inf")


async def probe(port: int, file: TextIO) -> None:
    """Sends each request on time, even if earlier ones have no response yet."""

    async def one() -> None:
        asked = time.time()
        file.write(f"{asked} {await seconds(port)}\n")
        file.flush()

    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()
    due = loop.time()
    while True:
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += INTERVAL
        await asyncio.sleep(max(0.0, due - loop.time()))


if __name__ == "__main__":
    with Path(sys.argv[2]).open("w", encoding="ascii") as output:
        asyncio.run(probe(int(sys.argv[1]), output))
