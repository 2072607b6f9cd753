"""The data directory: where it is, what makes it usable, where its socket lies, who serves it.

Daemon and client apply the same rules at each start, because the directory's mode is the only
credential of the embedded daemon's socket. Reading is cheap: a few `lstat` and one small file.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from runyard_contract.errors import HomeUnusable
from runyard_contract.value import value_class

HOME_VARIABLE = "RUNYARD_HOME"
DAEMON_RECORD = "daemon.json"
LAST_DAEMON_RECORD = "last-daemon.json"  # the same, and stays when the daemon ends
SOCKET_NAME = "daemon.sock"
# sockaddr_un holds 108 bytes on Linux and 104 elsewhere; gRPC and tools need a few of them.
SOCKET_PATH_BYTES = 100

_URI_SAFE = frozenset(b"/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")

# Write-ahead logs, flock and Unix sockets do not hold on these. 9p is not among them: gVisor
# shows the local root of a container as 9p.
_NETWORK_TYPES = frozenset(
    "afs afpfs beegfs ceph cifs coda davfs gfs gfs2 glusterfs gpfs lustre ncpfs ncp nfs nfs3 nfs4 "
    "ocfs2 orangefs panfs pvfs2 smb2 smb3 smbfs wekafs".split()
)
_NETWORK_FUSE = frozenset(
    "ceph curlftpfs davfs2 gcsfuse glusterfs goofys juicefs moosefs mfs rclone s3fs seaweedfs "
    "smbnetfs sshfs wekafs".split()
)


def data_home(environ: Mapping[str, str]) -> Path:
    """The data directory that these variables name; nothing is created or checked.

    `$RUNYARD_HOME`, else `$XDG_DATA_HOME/runyard/<hostname>`, else
    `~/.local/share/runyard/<hostname>`. Raises HomeUnusable for a relative RUNYARD_HOME, which
    would be another directory in every working folder.
    """
    chosen = environ.get(HOME_VARIABLE, "")
    if chosen:
        if not os.path.isabs(chosen):
            raise HomeUnusable(
                f"{HOME_VARIABLE} is {chosen!r}, which is not an absolute path",
                hint=f"set {HOME_VARIABLE} to an absolute path",
                home=chosen,
            )
        return Path(os.path.normpath(chosen))
    base = environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(base):  # empty too; the XDG specification says to ignore a relative one
        user = environ.get("HOME") or os.path.expanduser("~")
        base = os.path.join(user, ".local", "share")
    return Path(base, "runyard", _hostname(environ))


def _hostname(environ: Mapping[str, str]) -> str:
    """This machine's name, as one component of a path."""
    name = os.uname().nodename if hasattr(os, "uname") else environ.get("COMPUTERNAME", "")
    return name.replace("/", "-").lstrip(".") or "localhost"


def check_home(path: Path, create: bool = True) -> None:
    """Makes sure that the data directory can be used, or raises HomeUnusable with what to do.

    It is a real folder (no link) of this user, mode 0700, writable, and not on a network file
    system. With `create` a missing one is made, else a missing one is an error.
    """
    try:
        if create:
            _make(path)
        network = network_filesystem(path)
        if network is not None:
            raise _unusable(
                path,
                f"is on a network file system ({network}), where databases and sockets do not hold",
                f"set {HOME_VARIABLE} to a folder on a local disk",
                filesystem=network,
            )
        check_private_folder(path)
    except FileNotFoundError:
        raise _unusable(path, "does not exist", f"create it, or set {HOME_VARIABLE}") from None
    except OSError as error:
        why = f"can't be used: {error.strerror or error}"
        raise _unusable(path, why, f"set {HOME_VARIABLE} to a folder you can write to") from None
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise _unusable(
            path, "can't be written", f"set {HOME_VARIABLE} to a folder you can write to"
        )


def _make(path: Path) -> None:
    """Makes the directory, durably, where there is nothing; what it is, is checked elsewhere."""
    if os.path.lexists(path):
        return
    from runyard_contract.paths import make_folder  # not every start makes a directory

    with contextlib.suppress(FileExistsError):
        make_folder(path, 0o700)


def check_private_folder(path: Path) -> None:
    """Raises HomeUnusable unless this is a real folder of this user that nobody else can enter.

    Raises OSError where it can't be looked at.
    """
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise _unusable(
            path,
            "is a symbolic link, which somebody could turn elsewhere",
            f"set {HOME_VARIABLE} to the folder it leads to",
        )
    if not stat.S_ISDIR(status.st_mode):
        raise _unusable(path, "is not a folder", f"remove it, or set {HOME_VARIABLE}")
    if not hasattr(os, "geteuid"):
        return  # Windows: access control lists, and no daemon runs there
    if status.st_uid != os.geteuid():
        raise _unusable(
            path,
            f"belongs to user {status.st_uid}, not to you ({os.geteuid()})",
            f"set {HOME_VARIABLE} to a folder of your own",
            owner=str(status.st_uid),
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise _unusable(
            path,
            f"is open to other users (mode {mode:04o})",
            f"close it with `chmod 700 {path}`",
            mode=f"{mode:04o}",
        )


def check_socket(socket: Path) -> None:
    """Raises HomeUnusable unless the socket and its folder are this user's own, without a link.

    Raises FileNotFoundError where there is no socket.
    """
    check_private_folder(socket.parent)
    status = socket.lstat()
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
        raise _unusable(socket, "is not a socket of yours", "remove it, then try again")


def _unusable(path: Path, why: str, hint: str, **metadata: str) -> HomeUnusable:
    """The error for a path that can't be used."""
    shown = os.fsencode(path).decode("utf-8", "backslashreplace")
    return HomeUnusable(f"{shown} {why}", hint=hint, home=shown, **metadata)


def socket_path(home: Path, temporary_folder: str = "") -> Path:
    """Where the daemon of this data directory listens.

    `daemon.sock` in it; where that path is too long for a socket, in a folder of this user and
    this data directory under `temporary_folder` (default: $TMPDIR, else /tmp). The daemon makes
    that folder with mode 0700 (`prepare_socket_folder`) and names the socket in daemon.json.
    """
    near = home / SOCKET_NAME
    if len(os.fsencode(near)) <= SOCKET_PATH_BYTES:
        return near
    import hashlib  # loads OpenSSL, for those only whose path is too long

    digest = hashlib.blake2b(os.fsencode(home), digest_size=8).hexdigest()
    folder = f"runyard-{os.geteuid()}-{digest}"
    for base in (temporary_folder or os.environ.get("TMPDIR", ""), "/tmp"):  # noqa: S108 - the folder is 0700 and checked
        far = Path(base, folder, SOCKET_NAME)
        if far.is_absolute() and len(os.fsencode(far)) <= SOCKET_PATH_BYTES:
            return far
    raise AssertionError("a socket below /tmp is always short enough")


def grpc_target(socket: str | os.PathLike[str]) -> str:
    """What gRPC listens at or connects to for this socket.

    The path is part of a URI there: spaces, %, #, ? and letters beyond ASCII must be escaped.
    """
    raw = os.fsencode(socket)
    return "unix:" + "".join(chr(c) if c in _URI_SAFE else f"%{c:02X}" for c in raw)


def prepare_socket_folder(socket: Path) -> None:
    """Makes the folder of the socket where it is missing; HomeUnusable if somebody else has it."""
    try:
        socket.parent.mkdir(mode=0o700, exist_ok=True)
        check_private_folder(socket.parent)
    except OSError as error:
        why = f"can't be used for the socket: {error.strerror or error}"
        raise _unusable(socket.parent, why, "set TMPDIR to a folder you can write to") from None


def network_filesystem(path: Path, mountinfo: str | None = None) -> str | None:
    """The type of the network file system that holds this path, or None for a local one.

    Args:
        path: need not exist; its nearest existing parent decides.
        mountinfo: what /proc/self/mountinfo says. Default: read now; where there is none (other
            systems than Linux), the answer is None.
    """
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        except OSError:
            return None
    real = os.path.realpath(path)
    best, found = "", ""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")[0]
        if len(fields) < 5:
            continue
        point = _unescape(fields[4])
        # A later line of the same mount point hides the earlier one.
        if len(point) >= len(best) and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, found = point, kind
    if found in _NETWORK_TYPES or found.removeprefix("fuse.") in _NETWORK_FUSE:
        return found
    return None


def _unescape(text: str) -> str:
    """Undoes the octal escapes (space, tab, newline, backslash) of a mount point."""
    if "\\" not in text:
        return text
    for code in ("040", "011", "012", "134"):
        text = text.replace("\\" + code, chr(int(code, 8)))
    return text


@value_class
class DaemonRecord:
    """What daemon.json says of the daemon that serves a data directory.

    `version` is the build id, `started_at` RFC 3339, `socket` the path it listens on.
    """

    pid: int
    version: str
    interpreter: str
    socket: str
    started_at: str
    home: str

    def to_json(self) -> bytes:
        """The file's content."""
        fields = {name: getattr(self, name) for name in self.__match_args__}
        return json.dumps(fields, indent=1, ensure_ascii=True).encode() + b"\n"


def read_daemon_record(home: Path, name: str = DAEMON_RECORD) -> DaemonRecord | None:
    """What daemon.json says, or None where there is none or it is not whole.

    It may be left over from a daemon that was killed: only a connection proves that one lives.
    """
    try:
        fields = json.loads((home / name).read_bytes())
        return DaemonRecord(
            pid=int(fields["pid"]),
            version=str(fields["version"]),
            interpreter=str(fields["interpreter"]),
            socket=str(fields["socket"]),
            started_at=str(fields["started_at"]),
            home=str(fields["home"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def can_host_daemon() -> bool:
    """Whether daemon and agent run on this system (Linux); clients run elsewhere too."""
    return sys.platform == "linux"
