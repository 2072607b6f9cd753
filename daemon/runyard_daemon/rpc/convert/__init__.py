"""Messages to records and back, split by noun. Nothing below this package sees a message."""
