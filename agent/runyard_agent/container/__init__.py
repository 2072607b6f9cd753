"""A run's container: the process that stands for it in its slot, and the end of what it leaves.

Standard library only, and little of it: each run starts an interpreter for this.
"""
