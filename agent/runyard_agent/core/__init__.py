"""The agent's decisions, pure: no clock, no files, no network; all they need are arguments."""
