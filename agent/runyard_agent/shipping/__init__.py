"""What travels to the daemon apart from control: growing files by offset, other files by content."""
