"""What both sides of the wire must agree on: names, errors, paths, manifests, content, log order.

Pure: imports nothing of the other packages. Each module is imported by its own name, so that a
program loads only what it uses.
"""
