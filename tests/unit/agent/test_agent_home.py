import json
import os
import stat
from pathlib import Path

import pytest

from runyard_agent.bundles import Bundle, Key, scan
from runyard_agent.core.reconcile import Stage
from runyard_agent.home import open_home
from runyard_agent.sweeper import delete
from runyard_contract.errors import AlreadyRunning, HomeUnusable
from runyardpb.agent.v1 import agent_pb2 as pb

RUN = "t_1764000000_00000001"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    (tmp_path / "runs").mkdir()
    key = Key(RUN, 1)
    return Bundle(str(tmp_path / "runs" / str(key)), key)


def lease() -> pb.Lease:
    run = f"workspaces/default/experiments/t/runs/{RUN}"
    return pb.Lease(ref=pb.AttemptRef(run=run, attempt=1, epoch=9))


def test_home_belongs_to_one_agent_and_names_it(tmp_path: Path) -> None:
    home = open_home(tmp_path / "agent")

    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
        open_home(tmp_path / "agent")

    home.close()
    open_home(tmp_path / "agent").close()


def test_home_keeps_the_nodes_name(tmp_path: Path) -> None:
    first = open_home(tmp_path / "agent")
    first.close()
    second = open_home(tmp_path / "agent")
    second.close()

    assert first.node_id == second.node_id
    assert first.node_id.startswith(os.uname().nodename)
    assert stat.S_IMODE((tmp_path / "agent").stat().st_mode) == 0o700


def test_home_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir(mode=0o755)

    with pytest.raises(HomeUnusable, match="open to other users"):
        open_home(tmp_path / "agent")


def test_home_that_was_removed_or_replaced_is_noticed(tmp_path: Path) -> None:
    home = open_home(tmp_path / "agent")
    assert home.is_there()

    (tmp_path / "agent").rename(tmp_path / "moved")
    assert not home.is_there()
    second = open_home(tmp_path / "agent")
    assert not home.is_there()
    second.close()
    home.close()


def test_bundle_appears_with_its_lease(bundle: Bundle) -> None:
    bundle.create(lease())

    assert bundle.read_lease() == lease()
    assert [found.key for found in scan(Path(bundle.path).parent)] == [Key(RUN, 1)]
    assert bundle.found(is_supervised=False).stage is Stage.LEASED
    assert bundle.found(is_supervised=False).epoch == 9


@pytest.mark.parametrize(
    ("files", "stage"),
    [
        ({"state.json": {"phase": "spawning", "boot_id": "b"}}, Stage.SPAWNING),
        ({"state.json": {"phase": "running", "boot_id": "b"}}, Stage.RUNNING),
        ({"state.json": None}, Stage.SPAWNING),
        ({"state.json": {"phase": "running"}, "exit.json": {"reason": "exited"}}, Stage.EXITED),
        ({"state.json": {"phase": "running"}, "exit.json": None}, Stage.RUNNING),
        ({"exit.json": {}, "forgotten.json": {"expire_unix_s": 1.5}}, Stage.FORGOTTEN),
        ({"spec.json": {}}, Stage.LEASED),
    ],
)
def test_bundle_tells_how_far_it_had_come(
    bundle: Bundle, files: dict[str, dict[str, object] | None], stage: Stage
) -> None:
    bundle.create(lease())
    for name, content in files.items():
        text = '{"torn' if content is None else json.dumps(content)
        Path(bundle.path, name).write_text(text)

    assert bundle.found(is_supervised=False).stage is stage


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff", b"{}"])
def test_bundle_without_a_whole_lease_has_no_epoch(bundle: Bundle, data: bytes) -> None:
    os.mkdir(bundle.path)
    Path(bundle.path, "lease.pb").write_bytes(data)

    assert bundle.read_lease() is None
    assert bundle.found(is_supervised=False).epoch is None


@pytest.mark.parametrize("name", ["t.1", f"{RUN}.0", f"{RUN}.x", f"../{RUN}.1", f"{RUN}", ".x.1"])
def test_bundle_folders_have_strict_names(name: str) -> None:
    assert Key.parse(name) is None


def test_delete_removes_what_a_job_has_locked(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    folder = tmp_path / "work"
    (folder / "locked/deep").mkdir(parents=True)
    (folder / "locked/deep/file").touch()
    (folder / "link").symlink_to(outside)
    (folder / "locked/deep").chmod(0o000)
    (folder / "locked").chmod(0o000)

    delete(str(folder))

    assert not folder.exists()
    assert (outside / "kept").exists()
