"""Where this client keeps what it remembers: the `client` folder of the data directory."""

from __future__ import annotations

import os
from pathlib import Path

from runyard_contract.home import data_home

CLIENT_FOLDER = "client"


def home() -> Path:
    """The data directory of this process's environment. HomeUnusable for a relative one."""
    return data_home(os.environ)


def client_folder(home_folder: Path) -> Path | None:
    """The client's folder in a data directory, made if need be; None where it can't be.

    What lies in it is only remembered to be faster, so a client works without it.
    """
    folder = home_folder / CLIENT_FOLDER
    try:
        # Apart: `parents` makes the data directory with the umask's mode, open to others.
        home_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.R_OK | os.W_OK | os.X_OK) else None
