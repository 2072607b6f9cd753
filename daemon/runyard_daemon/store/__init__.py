"""The daemon's records in SQLite: the only place with SQL.

`database.Store` opens the file and runs closures; every noun has a module of functions that take
the connection of a closure first. Records go in and out as frozen dataclasses. Instants are whole
microseconds since the Unix epoch (`_us`).
"""
