"""Daemons that a person logged in to: their authority and the token, in a file of mode 0600."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runyard.address import credentials_path
from runyard_contract.errors import CredentialsUnusable
from runyard_contract.paths import atomic_write

TOKEN_VARIABLE = "RUNYARD_TOKEN"  # noqa: S105 - the name of a variable
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Login:
    """What is remembered of a daemon."""

    authority: str
    """The certificate of its authority, as PEM."""
    token: str = field(repr=False)


class Credentials:
    """The logins of a person, by address.

    Args:
        environ: says where the configuration of programs lies.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.path = Path(credentials_path(environ))

    def current(self) -> str:
        """The address that commands use unless told otherwise; empty: the embedded daemon."""
        return str(self._read().get("current", ""))

    def find(self, address: str) -> Login | None:
        """The login at an address. Raises CredentialsUnusable."""
        kept = self._read()["daemons"].get(address)
        return Login(**kept) if kept is not None else None

    def keep(self, address: str, login: Login) -> None:
        """Remembers a login and makes its daemon the one that commands use."""
        content = self._read()
        content["daemons"][address] = asdict(login)
        content["current"] = address
        self._write(content)

    def forget(self, address: str) -> bool:
        """Forgets a login; False: there was none."""
        content = self._read()
        was_there = content["daemons"].pop(address, None) is not None
        if content["current"] == address:
            content["current"] = ""
        if was_there:
            self._write(content)
        return was_there

    def _read(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_mode & 0o077 or status.st_uid != os.geteuid():
                    raise CredentialsUnusable(
                        f"{self.path} holds tokens, and others can read it "
                        f"({stat.filemode(status.st_mode)})",
                        hint=f"chmod 600 {self.path}; ask for new tokens if others have read it",
                        path=str(self.path),
                    )
                content = json.loads(file.read())
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']}")
            for login in content["daemons"].values():
                Login(**login)
        except FileNotFoundError:
            return {"format": _FORMAT, "current": "", "daemons": {}}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CredentialsUnusable(
                f"{self.path} can't be read: {error}",
                hint=f"remove {self.path} and log in again",
                path=str(self.path),
            ) from None
        return dict(content)

    def _write(self, content: Mapping[str, object]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic_write(self.path, json.dumps(content, indent=1).encode() + b"\n")
