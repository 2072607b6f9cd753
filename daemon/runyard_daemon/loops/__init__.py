"""What the daemon does unasked: each file is one loop, which waits, asks and applies."""
