"""The content store that daemon and agent both keep: bytes under their digest."""
