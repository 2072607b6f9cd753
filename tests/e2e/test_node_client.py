"""The example client in Node.js, run for real: the contract needs no code of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.house import House

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "clients" / "node"
INSTALL_LIMIT_S = 240


def unavailable(why: str) -> None:
    """Skips; in CI, where the client is to be proven, fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its packages, in a folder of its own."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        unavailable("node or npm is not installed (apt-get install nodejs npm)")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "submit.js"):
        shutil.copy(EXAMPLE / name, folder / name)
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        unavailable(f"npm install took more than {INSTALL_LIMIT_S} s")
    if done.returncode:
        unavailable(f"npm install failed: {done.stderr[-500:]}")
    return folder / "submit.js"


def submit(
    client: Path, house: House, folder: Path, *argv: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", str(client), str(folder), *argv],
        env={**house.environment, "RUNYARD_PROTO": str(ROOT / "proto")},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_node_client_submits_a_folder_follows_it_and_ends_as_the_program_did(
    client: Path, house: House
) -> None:
    script = "import lib.data, sys; print('loss', len(lib.data.x)); print('oops', file=sys.stderr)"
    files: dict[str, str | bytes] = {
        "train.py": f"{script}; sys.exit(7)",
        "lib/data.py": f"x = {'y' * 3_000_000!r}",
        ".gitignore": "*.bin\n",
        "weights.bin": bytes(100),
    }
    folder = house.project(files)
    house.json("runs", "list")  # starts the daemon

    failed = submit(client, house, folder, "python3", "train.py")
    passed = submit(client, house, folder, "sh", "-c", "ls; test ! -e weights.bin")

    assert failed.returncode == 7, failed.stderr
    assert failed.stdout == "loss 3000000\n"
    assert "oops\n" in failed.stderr
    assert "left out: weights.bin (.gitignore:1: *.bin)\n" in failed.stderr
    assert passed.returncode == 0, passed.stderr
    assert set(passed.stdout.split()) >= {"train.py", "lib"}


def test_node_client_says_what_the_daemon_refuses(client: Path, house: House) -> None:
    folder = house.project({"a.py": ""})
    (folder / "out").symlink_to("/etc/passwd")
    house.json("runs", "list")

    refused = submit(client, house, folder, "true")

    assert refused.returncode == 1
    assert "leads out of its directory" in refused.stderr
