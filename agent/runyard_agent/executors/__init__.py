"""What executes a run's program: one module a kind, behind the protocol of `protocol`."""
