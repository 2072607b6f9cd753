"""The files of runs that grow: logs, order index, metrics and tags, as plain files.

`appender` takes the agents' pieces, `reader` gives logs to those who follow, `metrics` and `tags`
read what jobs noted.
"""
