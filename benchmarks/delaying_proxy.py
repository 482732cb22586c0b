"""A TCP proxy on loopback that adds a fixed round-trip time to a server, as a network in between would."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

_READ_BYTES = 256 * 1024


@contextmanager
def delayed(url: str, *, seconds: float) -> Iterator[str]:
    """Run a proxy until the block ends.

    Args:
        url: The server.
        seconds: Every byte that a client sends arrives so much later; the bandwidth is not limited.

    Yields:
        The proxy's URL.
    """
    address = urlsplit(url)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="delaying-proxy")
    thread.start()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(address.hostname, address.port)
            await asyncio.gather(_forward(reader, up_writer, seconds), _forward(up_reader, writer, 0))
        except (OSError, asyncio.CancelledError):
            writer.close()

    async def stop() -> None:
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    start = asyncio.start_server(handle, "127.0.0.1", 0)
    server = asyncio.run_coroutine_threadsafe(start, loop).result()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter, seconds: float) -> None:
    """Forward what arrives, in order, each piece ``seconds`` after its arrival."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def send() -> None:
        while True:
            due, piece = await pieces.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if not piece:
                break
            sink.write(piece)
            await sink.drain()

    sending = asyncio.create_task(send())
    try:
        while True:
            piece = await source.read(_READ_BYTES)
            pieces.put_nowait((loop.time() + seconds, piece))
            if not piece:
                break
        await sending
    finally:
        sending.cancel()
        with suppress(OSError):
            sink.close()
