"""The `runyard` command: parses, calls the SDK, renders. One file a command group."""
