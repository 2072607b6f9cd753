"""Snapshots of source directories: scanned with a stat index, sent by what is missing."""
