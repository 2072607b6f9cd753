"""What is sent at a resubmit, what survives a cut-off client, and what an unchanged tree costs."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from support.counting_proxy import CountingProxy
from support.house import House

pytestmark = pytest.mark.slow

FILES = 3_000


@pytest.fixture
def tree(house: House) -> Path:
    noise = random.Random(7)
    files: dict[str, str | bytes] = {
        f"data/{n % 40}/{n}.bin": noise.randbytes(noise.randrange(50, 4_000)) for n in range(FILES)
    }
    files["train.py"] = "import os; print(sum(len(f) for _, _, f in os.walk('data')))"
    return house.project(files, name="tree")


def run_through(house: House, proxy_path: Path, folder: Path) -> dict[str, object]:
    done = house.runyard(
        "run", "--json", "train.py", cwd=folder, env={"RUNYARD_ADDRESS": f"unix:{proxy_path}"}
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.startswith(b"%d\n" % FILES) or b"\n%d\n" % FILES in done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_second_submit_sends_the_changed_chunks_and_little_else(house: House, tree: Path) -> None:
    house.runyard("run", "--", "true", cwd=house.project({"x": ""}, name="warm"))
    with CountingProxy(house.root / "p.sock", house.home / "daemon.sock") as proxy:
        first = run_through(house, house.root / "p.sock", tree)
        sent_at_first = proxy.sent_bytes
        changed = random.Random(8).randbytes(200_000)
        (tree / "data/7/7.bin").write_bytes(changed)
        second = run_through(house, house.root / "p.sock", tree)
        sent_for_change = proxy.sent_bytes - sent_at_first
        third = run_through(house, house.root / "p.sock", tree)

    assert sent_at_first > 1_000_000
    assert len(changed) <= sent_for_change < len(changed) + 64 * 1024
    assert first["snapshot"]["files_scanned"] == FILES + 1
    assert second["snapshot"]["files_hashed"] == 1
    assert third["snapshot"]["files_hashed"] == 0
    assert third["snapshot"]["bytes_sent"] == 0


def test_verbose_shows_what_was_scanned_hashed_and_sent(house: House, tree: Path) -> None:
    said = house.runyard("run", "--verbose", "train.py", cwd=tree).stderr.decode()

    assert "scanned" in said
    assert "hashed" in said
    assert "sent" in said


def test_client_cut_off_in_the_middle_of_an_upload_harms_nothing(house: House, tree: Path) -> None:
    house.runyard("run", "--", "true", cwd=house.project({"x": ""}, name="warm"))
    with CountingProxy(
        house.root / "p.sock", house.home / "daemon.sock", cut_after_bytes=1_500_000
    ) as proxy:
        house.runyard(
            "run", "train.py", cwd=tree, env={"RUNYARD_ADDRESS": f"unix:{house.root}/p.sock"}
        )
        assert proxy.has_cut

    done = house.runyard("run", "train.py", cwd=tree)

    assert done.stdout == b"%d\n" % FILES


def test_links_and_executable_bits_arrive(house: House) -> None:
    folder = house.project({"tool.sh": "#!/bin/sh\necho tool", "a/b.txt": "b"}, name="bits")
    (folder / "tool.sh").chmod(0o755)
    (folder / "link").symlink_to("a/b.txt")
    (folder / "empty").mkdir()

    done = house.runyard("run", "--", "sh", "-c", "./tool.sh; readlink link; cat link", cwd=folder)

    assert done.stdout == b"tool\na/b.txt\nb"
