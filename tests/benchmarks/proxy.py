"""A network that takes its time: everything that passes arrives so much later, either way.

    python -m tests.benchmarks.proxy SOCKET DELAY_MS        # prints its port; ends with its standard input

Rules: bandwidth is not limited and bytes stay in order. The loop selects by `select`: that of epoll rounds waits up to
whole milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import sys

TIE_S = 1e-7


class Late:
    """Writes to a transport what is handed to it, later."""

    def __init__(self, writer: asyncio.StreamWriter, delay_s: float) -> None:
        self._writer = writer
        self._delay_s = delay_s
        self._last = 0.0

    def write(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._last = max(loop.time() + self._delay_s, self._last + TIE_S)
        loop.call_at(self._last, self._write, data)

    def _write(self, data: bytes) -> None:
        if data:
            self._writer.write(data)
        else:
            self._writer.close()


async def carry(reader: asyncio.StreamReader, late: Late) -> None:
    """Carry one direction until it ends; the end arrives late, too."""
    data = b"-"
    while data:
        try:
            data = await reader.read(65536)
        except OSError:
            data = b""
        late.write(data)


async def main(socket: str, delay_s: float) -> None:
    """Serve until standard input ends."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = socket.rpartition(":")
        opening = asyncio.open_connection(host, int(port)) if host else asyncio.open_unix_connection(socket)
        server_reader, server_writer = await opening
        await asyncio.gather(carry(reader, Late(server_writer, delay_s)), carry(server_reader, Late(writer, delay_s)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)  # what is still on its way is nobody's any more


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(main(sys.argv[1], float(sys.argv[2]) / 1e3))
