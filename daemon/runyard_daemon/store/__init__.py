"""The daemon's records in SQLite: the only place with SQL.

`database.Store` opens the file and runs closures; every noun has a module of functions that take
the connection of a closure first. Records go in and out as frozen dataclasses. Instants are whole
microseconds since the Unix epoch (`_us`).
"""

import sqlite3
from typing import Final

Connection = sqlite3.Connection
"""What a closure gets: passed on to the nouns' functions, never used by itself."""

SQLITE_VERSION: Final = sqlite3.sqlite_version
"""The SQLite that this Python brings, such as "3.40.1"."""
