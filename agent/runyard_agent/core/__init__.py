"""The agent's decisions, pure: no clock, no files, no network; what they need comes in as arguments."""
