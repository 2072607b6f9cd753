"""What provides a run's environment: one module a kind, behind the protocol of `protocol`."""
