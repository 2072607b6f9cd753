"""The agent of a node. Import-free: the supervisor loads its own part from here."""
