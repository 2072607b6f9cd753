import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runyard_agent.shipping.growing import PATHS, GrowingFiles, Piece
from runyard_contract.orderindex import STDERR, STDOUT, encode_record
from runyard_contract.shipping import accept
from runyardpb.agent.v1 import agent_pb2 as pb

STDOUT_FILE = pb.AppendFilesRequest.FILE_STDOUT
STDERR_FILE = pb.AppendFilesRequest.FILE_STDERR
ORDER_FILE = pb.AppendFilesRequest.FILE_ORDER
METRICS_FILE = pb.AppendFilesRequest.FILE_METRICS
REF = pb.AttemptRef(run="workspaces/default/experiments/t/runs/t_1_00000001", attempt=1, epoch=1)


class Spool:
    """A supervisor's half: appends to the streams and to the order index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "job").mkdir()
        self.lengths = {STDOUT: 0, STDERR: 0}

    def write(self, stream: int, data: bytes) -> None:
        name = "stdout" if stream == STDOUT else "stderr"
        with (self.path / name).open("ab") as file:
            file.write(data)
        with (self.path / "order").open("ab") as file:
            file.write(encode_record(stream, self.lengths[stream], len(data)))
        self.lengths[stream] += len(data)

    def content(self) -> dict[int, bytes]:
        found = {}
        for file, name in PATHS.items():
            path = self.path / name
            found[file] = path.read_bytes() if path.exists() else b""
        return found


class Receiver:
    """A daemon's half: appends at its own length."""

    def __init__(self) -> None:
        self.files: dict[int, bytes] = {file: b"" for file in PATHS}

    def take(self, piece: Piece) -> int:
        append = accept(len(self.files[piece.file]), piece.offset_bytes, piece.data)
        if append is not None:
            self.files[piece.file] += bytes(append.data)
        return len(self.files[piece.file])

    def merged_is_readable(self) -> bool:
        """Whether all bytes that the order index names are there."""
        from runyard_contract.orderindex import RECORD_BYTES, decode_records

        order = self.files[ORDER_FILE]
        for piece in decode_records(order[: len(order) // RECORD_BYTES * RECORD_BYTES]):
            stream = self.files[STDOUT_FILE if piece.stream == STDOUT else STDERR_FILE]
            if piece.offset_bytes + piece.length_bytes > len(stream):
                return False
        return True


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


def ship(files: GrowingFiles, receiver: Receiver) -> list[Piece]:
    sent = []
    files.grown()
    while (piece := files.next_piece(1 << 20)) is not None:
        sent.append(piece)
        files.acknowledge(piece.file, receiver.take(piece))
    return sent


def test_growing_files_send_stream_bytes_before_the_order_that_names_them(spool: Spool) -> None:
    spool.write(STDOUT, b"out")
    spool.write(STDERR, b"err")
    files = GrowingFiles(REF, str(spool.path), is_new=True)

    sent = ship(files, Receiver())

    assert [piece.file for piece in sent] == [STDOUT_FILE, STDERR_FILE, ORDER_FILE]


def test_growing_files_do_not_run_far_ahead_of_the_order(spool: Spool) -> None:
    for _ in range(64):
        spool.write(STDOUT, b"x" * 65536)
    files = GrowingFiles(REF, str(spool.path), is_new=True)
    receiver = Receiver()

    for piece in ship(files, receiver):
        if piece.file == ORDER_FILE:
            break

    first_order = next(p for p in ship_again(spool) if p.file == ORDER_FILE)
    assert first_order.offset_bytes == 0
    assert len(first_order.data) <= 17 * 16


def ship_again(spool: Spool) -> list[Piece]:
    return ship(GrowingFiles(REF, str(spool.path), is_new=True), Receiver())


def test_growing_files_are_complete_when_all_is_durable(spool: Spool) -> None:
    spool.write(STDOUT, b"out")
    (spool.path / "job/metrics.jsonl").write_bytes(b'{"k":"s"}\n')
    files = GrowingFiles(REF, str(spool.path), is_new=True)
    receiver = Receiver()

    ship(files, receiver)
    assert not files.is_complete  # may still grow
    lengths = files.finish()
    ship(files, receiver)

    assert files.is_complete
    assert lengths[STDOUT_FILE] == 3
    assert lengths[METRICS_FILE] == 10
    assert receiver.files == spool.content()


def test_growing_files_ask_first_when_an_earlier_agent_may_have_sent_some(spool: Spool) -> None:
    spool.write(STDOUT, b"0123456789")
    receiver = Receiver()
    receiver.files[STDOUT_FILE] = b"01234"
    files = GrowingFiles(REF, str(spool.path), is_new=False)

    sent = ship(files, receiver)

    assert [piece.data for piece in sent[:6]] == [b""] * 6
    assert [p.offset_bytes for p in sent[6:] if p.file == STDOUT_FILE] == [5]
    assert receiver.files[STDOUT_FILE] == b"0123456789"


def test_growing_files_send_nothing_while_the_answer_is_out(spool: Spool) -> None:
    spool.write(STDOUT, b"x")
    files = GrowingFiles(REF, str(spool.path), is_new=False)

    asked = [files.next_piece(1 << 20) for _ in range(8)]

    assert [piece is not None for piece in asked] == [True] * 6 + [False] * 2


def test_growing_files_go_back_when_the_daemon_has_lost_some(spool: Spool) -> None:
    spool.write(STDOUT, b"0123456789")
    files = GrowingFiles(REF, str(spool.path), is_new=True)
    receiver = Receiver()
    ship(files, receiver)
    receiver.files[STDOUT_FILE] = b"012"

    files.acknowledge(STDOUT_FILE, 3)
    ship(files, receiver)

    assert receiver.files[STDOUT_FILE] == b"0123456789"


def test_growing_files_keep_within_the_room(spool: Spool) -> None:
    spool.write(STDOUT, b"x" * 1000)
    files = GrowingFiles(REF, str(spool.path), is_new=True)

    piece = files.next_piece(300)

    assert piece is not None
    assert len(piece.data) == 300
    assert files.unacknowledged_bytes == 300
    assert files.next_piece(0) is None


def test_growing_files_ship_at_the_end_what_no_record_names(spool: Spool) -> None:
    spool.write(STDOUT, b"named")
    with (spool.path / "stdout").open("ab") as file:
        file.write(b" and not")
    with (spool.path / "order").open("ab") as file:
        file.write(b"\x01torn")
    files = GrowingFiles(REF, str(spool.path), is_new=True)
    receiver = Receiver()

    ship(files, receiver)
    assert receiver.files[STDOUT_FILE] == b"named"
    files.finish()
    ship(files, receiver)

    assert receiver.files[STDOUT_FILE] == b"named and not"
    assert len(receiver.files[ORDER_FILE]) == 16
    assert files.is_complete


def test_growing_files_follow_no_link_that_a_job_has_put_there(
    spool: Spool, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (spool.path / "job/metrics.jsonl").symlink_to(secret)
    files = GrowingFiles(REF, str(spool.path), is_new=True)
    receiver = Receiver()

    ship(files, receiver)
    files.finish()

    assert receiver.files[METRICS_FILE] == b""
    assert files.is_complete


def test_growing_files_give_back_disk_space_of_what_is_durable(spool: Spool) -> None:
    freed: list[tuple[int, int]] = []
    files = GrowingFiles(
        REF,
        str(spool.path),
        is_new=True,
        free_each_bytes=1 << 20,
        freed=lambda out, err: freed.append((out, err)),
    )
    for _ in range(8):
        spool.write(STDOUT, b"x" * (512 << 10))
    before = (spool.path / "stdout").stat()

    ship(files, Receiver())

    after = (spool.path / "stdout").stat()
    assert freed[-1] == (4 << 20, 0)
    assert after.st_size == before.st_size
    assert after.st_blocks <= before.st_blocks


@settings(max_examples=60)
@example(steps=[(2, 53), (2, 149), "send", "send", "ack", "ack"], is_new=True, seed=149)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from([STDOUT, STDERR]), st.integers(1, 200)),
            st.sampled_from(["send", "ack", "break", "lose"]),
        ),
        max_size=60,
    ),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_growing_files_arrive_whole_over_a_lossy_link(
    steps: list[object], is_new: bool, seed: int
) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        files = GrowingFiles(REF, folder, is_new=is_new)
        receiver = Receiver()
        acks: list[tuple[int, int]] = []
        for step in steps:
            if isinstance(step, tuple):
                spool.write(step[0], chance.randbytes(step[1]))
            elif step == "send":
                files.grown()
                piece = files.next_piece(chance.randint(1, 300))
                if piece is not None:
                    acks.append((piece.file, receiver.take(piece)))
            elif step == "ack" and acks:
                files.acknowledge(*acks.pop(0))  # type: ignore[arg-type]
            elif step == "break":
                acks.clear()
                files.rewind()
            elif step == "lose" and files.next_piece(50) is not None:
                acks.clear()  # it was on its way when the link broke
                files.rewind()
            assert receiver.merged_is_readable()
            content = spool.content()
            assert all(content[f].startswith(data) for f, data in receiver.files.items())

        files.rewind()
        files.finish()
        ship(files, receiver)

        assert files.is_complete
        assert receiver.files == spool.content()
        files.close()
