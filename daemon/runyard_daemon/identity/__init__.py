"""Who the daemon is and whom it knows: its certificate authority, tokens, certificates of nodes."""
