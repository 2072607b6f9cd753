from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from runyard_contract.errors import DiskFull, SpecInvalid
from runyard_daemon import config
from runyard_daemon.control.disk import DiskGuard
from runyard_daemon.settings import DiskLimits
from support.served import Served, create_request, refused, with_daemon

GIB = 1 << 30


@dataclass
class Disk:
    """A file system of 4 KiB blocks, a twentieth of which only root may use."""

    size_bytes: int
    free_bytes: int
    f_frsize: int = 4096

    @property
    def f_blocks(self) -> int:
        return self.size_bytes // self.f_frsize * 20 // 19

    @property
    def f_bavail(self) -> int:
        return self.free_bytes // self.f_frsize

    @property
    def f_bfree(self) -> int:
        return self.f_bavail + self.f_blocks // 20


@pytest.mark.parametrize(
    ("size_gib", "free_gib", "is_full"),
    [(20, 3, False), (20, 1.9, True), (2000, 6, False), (2000, 4.9, True), (1, 0.2, False)],
)
def test_disk_counts_as_full_by_share_unless_much_is_free(
    size_gib: float, free_gib: float, is_full: bool
) -> None:
    disk = Disk(int(size_gib * GIB), int(free_gib * GIB))
    guard = DiskGuard(Path("/data"), DiskLimits(), lambda _: disk)

    if not is_full:
        guard.check()
        return
    with pytest.raises(DiskFull) as caught:
        guard.check()
    assert "runyard runs prune" in caught.value.hint


def test_a_full_disk_takes_nothing_new_and_goes_on_by_itself() -> None:
    async def test(daemon: Served) -> None:
        disk = Disk(100 * GIB, 50 * GIB)
        live = daemon.app.live
        live.disk = DiskGuard(daemon.home, DiskLimits(), lambda _: disk)
        first = create_request(b"true")
        run = (await daemon.runs.CreateRun(first)).run

        disk.free_bytes = GIB
        submit = await refused(daemon.submit(b"true"))
        upload = await refused(daemon.upload(b"data"))
        again = (await daemon.runs.CreateRun(first)).run
        disk.free_bytes = 50 * GIB

        assert (submit.reason, submit.code) == ("DISK_FULL", "RESOURCE_EXHAUSTED")
        assert upload.reason == "DISK_FULL"
        assert again.name == run.name
        await daemon.submit(b"true")
        await daemon.upload(b"data")

    with_daemon(test)


def test_settings_of_a_data_directory_are_read_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "daemon.toml"
    file.write_text(
        "[retention]\nmax_age_days = 30\nmax_size_gib = 0.5\nkeep_last = 3\n"
        "[disk]\nfull_percent = 95\nenough_free_gib = 1\n"
        "[environments]\nmax_gib = 0.5\nconda = '/opt/conda/bin/conda'\n"
    )
    loaded = config.load({}, home=tmp_path, is_embedded=False)

    assert loaded.retention is not None
    assert loaded.retention.max_age_us == 30 * 86_400_000_000
    assert (loaded.retention.max_size_bytes, loaded.retention.keep_last) == (GIB // 2, 3)
    assert loaded.disk == DiskLimits(95.0, GIB)
    assert loaded.environments_max_bytes == GIB // 2
    assert loaded.conda == "/opt/conda/bin/conda"
    for text, complaint in (
        ("[retention]\nmax_age_day = 3\n", 'did you mean "max_age_days"?'),
        ("[retenton]\nmax_age_days = 3\n", 'did you mean "retention"?'),
        ("[disk]\nfull_percent = 101\n", "over 100"),
        ("[environments]\nmax_gib = 0\n", "no number over 0"),
        ("[environments]\nmax_gib = -1\n", "no number"),
        ("[environments]\nmax_gib = '9'\n", "no number"),
        ("[environments]\nmax_gb = 9\n", 'did you mean "max_gib"?'),
        ("[environments]\nconda = 'conda'\n", "nor the absolute path of a program"),
        ("[environments]\nconda = true\n", "nor the absolute path of a program"),
        ("[environments]\noffline = 'no'\n", "neither true nor false"),
        ("[environments]\nseal = 'sometimes'\n", "use one of auto, always, never"),
        ("[environments]\nchannel_mirrors = 1\n", "no channels with lists of URLs"),
        ("[environments.channel_mirrors]\nconda-forge = ['m']\n", "which is no URL"),
        ("[environments.channel_mirrors]\nconda-forge = ['https://u:p@h/c']\n", "credentials"),
        ("[retention]\nkeep_last = -1\n", "no number"),
        ("[retention]\nkeep_last = true\n", "no number"),
        ("[retention]\nkeep_last = 2.5\n", "no whole number"),
        ("retention = 3\n", "no section"),
        ("[", "can't be read"),
    ):
        file.write_text(text)
        with pytest.raises(SpecInvalid) as caught:
            config.load({}, home=tmp_path, is_embedded=False)
        assert complaint in caught.value.message, text


def test_settings_that_are_no_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "daemon.toml").mkdir()

    with pytest.raises(SpecInvalid, match="can't be read"):
        config.load({}, home=tmp_path, is_embedded=False)


def test_without_settings_nothing_is_removed_by_itself(tmp_path: Path) -> None:
    assert config.load({}, home=tmp_path, is_embedded=False).retention is None
