"""What keeps a user from an engine's socket, and which command changes that."""

from __future__ import annotations

import grp
import os
import pwd

from runyard_agent.environments.protocol import EnvironmentFailed
from runyard_contract.paths import shown


def not_permitted(path: str) -> EnvironmentFailed:
    """The error for a socket that this process may not use."""
    user = _user_name()
    try:
        status = os.stat(path)
    except OSError:  # a folder on the way to it is closed
        return _refused(path, user, "", "ask who runs the engine for access to the socket's folder")
    group = _group_name(status.st_gid)
    if not status.st_mode & 0o020 or status.st_gid == 0:
        advice = (
            "ask who runs the engine to give its socket to a group, usually docker, and to add this"
            f" user to that (`sudo usermod -aG docker {user}`), or use a rootless engine of this"
            " user, named by DOCKER_HOST"
        )
        return _refused(path, user, group, advice)
    if _is_member(user, status.st_gid):
        advice = (
            f"{user} is in the group already, since after the login that runyard was started in:"
            " log in again and restart runyard (`runyard daemon stop`)"
        )
    else:
        advice = f"`sudo usermod -aG {group} {user}`, log in again and restart runyard"
    return _refused(path, user, group, advice)


def _refused(path: str, user: str, group: str, advice: str) -> EnvironmentFailed:
    whose = f", which is for the group {group}" if group else ""
    return EnvironmentFailed(
        f"user {user} may not use the Docker engine at {shown(path)}{whose} (permission denied)",
        advice,
        {"socket": shown(path), "user": user, **({"group": group} if group else {})},
    )


def _user_name() -> str:
    """The name of the user that this process runs as, the number where it has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _is_member(user: str, gid: int) -> bool:
    """Whether the next login of a user is in the group, which this process is not."""
    try:
        return user in grp.getgrgid(gid).gr_mem
    except KeyError:
        return False
