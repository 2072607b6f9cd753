"""The daemon: keeps runs, decides where they execute, serves clients and agents."""
