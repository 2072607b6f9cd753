"""What travels to the daemon apart from control: growing files by offset, others by content."""
