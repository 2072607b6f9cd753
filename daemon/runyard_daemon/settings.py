"""`daemon.toml` in the data directory: what a person may set for a daemon."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from runyard_contract.environment_spec import channel_fault
from runyard_contract.errors import SpecInvalid
from runyard_contract.nearest import nearest
from runyard_daemon.core.retention import RetentionPolicy

SETTINGS_NAME: Final = "daemon.toml"
_DAY_US: Final = 86_400_000_000
_GIB: Final = 1 << 30
ENVIRONMENTS_MAX_BYTES: Final = 50 * _GIB
SEAL_MODES: Final = ("auto", "always", "never")
_KEYS: Final = {
    "retention": ("max_age_days", "max_size_gib", "keep_last"),
    "disk": ("full_percent", "enough_free_gib"),
    "environments": ("max_gib", "channel_mirrors", "conda", "offline", "seal"),
}


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """When the disk of the data directory counts as full."""

    full_percent: float = 90.0
    """Used, of what the daemon's account may use."""
    enough_free_bytes: int = 5 * _GIB
    """With more than this free it is not full, however large it is."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the file says; without one, the defaults."""

    retention: RetentionPolicy | None = None
    disk: DiskLimits = field(default_factory=DiskLimits)
    environments_max_bytes: int = ENVIRONMENTS_MAX_BYTES
    """Built environments that the local agent keeps."""
    channel_mirrors: tuple[tuple[str, str], ...] = ()
    """Conda channels, and where the local agent reads them instead, in the order of trying."""
    conda: str = "auto"
    """The local agent's own conda program: "auto" looks for one, "builtin" uses none; a path."""
    is_offline: bool = False
    """The local agent builds no environments: what is not there is taken sealed."""
    seal: str = SEAL_MODES[0]
    """Which built environments the local agent seals, one of SEAL_MODES."""


def read_settings(home: Path) -> Settings:
    """Reads the file of a data directory. Raises SpecInvalid, naming the key at fault."""
    path = home / SETTINGS_NAME
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise _fault(path, "", f"can't be read: {error}") from None
    for section, values in document.items():
        if section not in _KEYS or not isinstance(values, dict):
            raise _fault(path, section, f"is no section{_close(section, _KEYS)}")
        for key in values:
            if key not in _KEYS[section]:
                close = _close(key, _KEYS[section])
                raise _fault(path, f"{section}.{key}", f"is no setting{close}")
    return Settings(
        retention=_retention(path, document.get("retention", {})),
        disk=_disk(path, document),
        environments_max_bytes=_environments_max_bytes(path, document),
        channel_mirrors=tuple(_channel_mirrors(path, document)),
        conda=_conda(path, document),
        is_offline=_is_offline(path, document),
        seal=_seal(path, document),
    )


def _retention(path: Path, values: Mapping[str, Any]) -> RetentionPolicy | None:
    if not values:
        return None
    days = _number(path, values, "retention.max_age_days")
    gib = _number(path, values, "retention.max_size_gib")
    keep_last = _number(path, values, "retention.keep_last") or 0.0
    if not keep_last.is_integer():
        raise _fault(path, "retention.keep_last", f"is {keep_last:g}, which is no whole number")
    return RetentionPolicy(
        max_age_us=None if days is None else round(days * _DAY_US),
        max_size_bytes=None if gib is None else round(gib * _GIB),
        keep_last=int(keep_last),
    )


def _disk(path: Path, document: Mapping[str, Any]) -> DiskLimits:
    values = document.get("disk", {})
    percent = _number(path, values, "disk.full_percent")
    gib = _number(path, values, "disk.enough_free_gib")
    if percent is not None and percent > 100:
        raise _fault(path, "disk.full_percent", "is over 100")
    return DiskLimits(
        full_percent=DiskLimits().full_percent if percent is None else percent,
        enough_free_bytes=DiskLimits().enough_free_bytes if gib is None else round(gib * _GIB),
    )


def _environments_max_bytes(path: Path, document: Mapping[str, Any]) -> int:
    gib = _number(path, document.get("environments", {}), "environments.max_gib")
    if gib is None:
        return ENVIRONMENTS_MAX_BYTES
    if not round(gib * _GIB):
        raise _fault(path, "environments.max_gib", f"is {gib:g}, which is no number over 0")
    return round(gib * _GIB)


def _channel_mirrors(path: Path, document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    mirrors = document.get("environments", {}).get("channel_mirrors", {})
    if not isinstance(mirrors, dict):
        raise _fault(path, "environments.channel_mirrors", "has no channels with lists of URLs")
    for channel, urls in mirrors.items():
        name = f'environments.channel_mirrors."{channel}"'
        if fault := channel_fault(channel):
            raise _fault(path, name, fault)
        if not isinstance(urls, list) or not urls:
            raise _fault(path, name, "is no list of URLs")
        for url in urls:
            fault = channel_fault(url) if isinstance(url, str) else "is no text"
            if fault or "://" not in url:
                raise _fault(path, name, fault or f"names {url!r}, which is no URL")
            yield channel, url


def _conda(path: Path, document: Mapping[str, Any]) -> str:
    value = document.get("environments", {}).get("conda", "auto")
    if value in ("auto", "builtin") or (isinstance(value, str) and value.startswith("/")):
        return str(value)
    what = f'is {value!r}, which is neither "auto", "builtin" nor the absolute path of a program'
    raise _fault(path, "environments.conda", what)


def _is_offline(path: Path, document: Mapping[str, Any]) -> bool:
    value = document.get("environments", {}).get("offline", False)
    if not isinstance(value, bool):
        raise _fault(path, "environments.offline", f"is {value!r}, neither true nor false")
    return value


def _seal(path: Path, document: Mapping[str, Any]) -> str:
    value = document.get("environments", {}).get("seal", SEAL_MODES[0])
    if value not in SEAL_MODES:
        raise _fault(path, "environments.seal", f"is {value!r}; use one of {', '.join(SEAL_MODES)}")
    return str(value)


def _number(path: Path, values: Mapping[str, Any], name: str) -> float | None:
    """The number of a key, None where it is not set."""
    value = values.get(name.partition(".")[2])
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 1e9:
        raise _fault(path, name, f"is {value!r}, which is no number from 0 on")
    return float(value)


def _close(name: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    found = nearest(name, list(known))
    return f'; did you mean "{found}"?' if found else f": use one of {', '.join(known)}"


def _fault(path: Path, key: str, what: str) -> SpecInvalid:
    return SpecInvalid(
        f"{path}: {key + ' ' if key else ''}{what}",
        hint=f"mend {path}, then start the daemon again",
        path=str(path),
        key=key,
    )
