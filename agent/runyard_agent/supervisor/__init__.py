"""The processes that own a node's runs: one warm parent and one slot supervisor for each slot.

Standard library only, single-threaded, Linux. The agent talks to it through
`runyard_agent.slots`; it never imports this package.
"""
