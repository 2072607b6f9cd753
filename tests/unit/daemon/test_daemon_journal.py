from __future__ import annotations

import json
import logging
import os

from runyard_daemon.journal import Journal, take_over_logging


def test_one_event_is_one_line_whatever_a_peer_sent() -> None:
    read_fd, write_fd = os.pipe()
    hostile = 'x\n{"level":"error"}\r\x1b[2J\u2028\x7f\ud800'

    Journal(write_fd).warning("agent_fault", what=hostile, raw=b"\xff\n", count=3, none=None)

    data = os.read(read_fd, 1 << 16)
    assert data.count(b"\n") == 1
    assert all(32 <= byte < 127 for byte in data[:-1])
    line = json.loads(data)
    assert (line["event"], line["level"]) == ("agent_fault", "warning")
    assert (line["count"], line["none"], line["raw"]) == (3, None, "\\xff\n")
    assert line["time"].endswith("Z")


def test_long_values_are_cut() -> None:
    read_fd, write_fd = os.pipe()

    Journal(write_fd).info("event", value="x" * 100_000)

    assert len(os.read(read_fd, 1 << 16)) < 5000


def test_a_log_that_can_not_be_written_ends_nothing() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        Journal(full.fileno()).error("event")


def test_warnings_of_libraries_go_to_the_journal() -> None:
    read_fd, write_fd = os.pipe()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        take_over_logging(Journal(write_fd))
        logging.getLogger("grpc").warning("careful: %s", "now")
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)

    line = json.loads(os.read(read_fd, 1 << 16))
    assert (line["logger"], line["message"]) == ("grpc", "careful: now")
