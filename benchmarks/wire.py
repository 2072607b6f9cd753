"""Bytes that a resubmit sends after one change, counted on the wire by a relay.

A tree of 20,000 small files and a file of 64 MB in chunks. The relay stands where a forwarded
socket would: between the client and the daemon's socket.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from pathlib import Path

from machine import row, temporary_home

FILES = 20_000
FOLDERS = 400
LARGE_BYTES = 64 << 20
SMALL_BYTES = 4 << 10
MORE_BYTES = 64 << 10
"""What a resubmit may send beside the changed chunks."""
_READ_BYTES = 1 << 20


class Relay:
    """Passes connections on to another Unix socket, and counts what goes there."""

    def __init__(self, path: Path, target: Path) -> None:
        self.sent_bytes = 0
        self._path = path
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._is_ready = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()
        self._is_ready.wait()

    def _serve(self) -> None:
        self._loop.run_until_complete(self._start())
        self._loop.run_forever()

    async def _start(self) -> None:
        await asyncio.start_unix_server(self._pass_on, self._path)
        self._path.chmod(0o600)
        self._is_ready.set()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_unix_connection(self._target)
        await asyncio.gather(
            self._copy(reader, to_there, is_counted=True),
            self._copy(there, writer, is_counted=False),
            return_exceptions=True,
        )

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_counted: bool
    ) -> None:
        while data := await reader.read(_READ_BYTES):
            if is_counted:
                self.sent_bytes += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()


def make_tree(folder: Path) -> None:
    """The files, of bytes that don't pack."""
    noise = random.Random(2)
    for number in range(FILES):
        file = folder / f"d{number % FOLDERS}" / f"f{number}.dat"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(noise.randbytes(200))
    (folder / "small.dat").write_bytes(noise.randbytes(SMALL_BYTES))
    (folder / "large.bin").write_bytes(noise.randbytes(LARGE_BYTES))


def main() -> None:
    from runyard import Experiment, ScriptRunConfig, Workspace
    from runyard_contract.limits import CHUNK_BYTES

    with temporary_home() as root:
        folder = root / "project"
        make_tree(folder)
        config = ScriptRunConfig(source_directory=str(folder), command=["true"])
        Experiment(Workspace(), "wire").submit(config).wait_for_completion()
        daemon = json.loads((root / "home" / "daemon.json").read_bytes())
        relay = Relay(root / "relay.sock", Path(daemon["socket"]))
        os.environ["RUNYARD_ADDRESS"] = f"unix:{root / 'relay.sock'}"
        experiment = Experiment(Workspace(), "wire")
        experiment.submit(config).wait_for_completion()

        def sent_by(change: bytes, name: str, offset_bytes: int) -> int:
            with (folder / name).open("r+b") as file:
                file.seek(offset_bytes)
                file.write(change)
            before = relay.sent_bytes
            experiment.submit(config)
            return relay.sent_bytes - before

        for what, sent, changed in (
            ("nothing", sent_by(b"", "small.dat", 0), 0),
            ("one file of 4 KiB", sent_by(b"new", "small.dat", 100), SMALL_BYTES),
            (
                "a byte of a file of 64 MB",
                sent_by(b"n", "large.bin", LARGE_BYTES // 2),
                CHUNK_BYTES,
            ),
        ):
            row(
                f"bytes sent by a resubmit of {FILES:,} files, {what} changed",
                f"{sent:,} bytes",
                f"changed chunks {changed:,} bytes" if changed else "",
                sent / changed if changed else None,
                f"the changed chunks and {MORE_BYTES >> 10} KiB",
                sent < changed + MORE_BYTES,
            )
        del os.environ["RUNYARD_ADDRESS"]


if __name__ == "__main__":
    main()
