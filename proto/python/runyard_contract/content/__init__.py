"""The content store that daemon and agent both keep: bytes under their digest.

`store` is the whole; `batch` writes into it; `pack` is the format of a pack, `packs` all packs of a
store, `loose` the blobs that have a file each; `durable` makes any of it survive a power loss.
"""
