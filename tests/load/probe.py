"""Asks /health on a connection of its own ten times a second, and writes down how long each answer took.

A process by itself, so that what the clients do in theirs does not count. Arguments: port, file. Each line: when
it was asked, in seconds since the epoch, and seconds until it was answered; inf if it was not, or not by 200.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import TextIO

EVERY = 0.1
LONGEST = 10.0


async def seconds(port: int) -> float:
    """How long one answer takes."""
    start = time.perf_counter()
    try:
        async with asyncio.timeout(LONGEST):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            good = (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
    except OSError:
        return float("inf")
    return time.perf_counter() - start if good else float("inf")


async def probe(port: int, file: TextIO) -> None:
    """Each is asked when it is its time, whether or not those before are answered."""

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
        due += EVERY
        await asyncio.sleep(max(0.0, due - loop.time()))


if __name__ == "__main__":
    with Path(sys.argv[2]).open("w", encoding="ascii") as output:
        asyncio.run(probe(int(sys.argv[1]), output))
