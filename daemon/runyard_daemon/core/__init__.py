"""What the daemon decides, without doing it.

Every module here is pure: it imports the contract and the standard library's pure parts only. Time,
ids and randomness come in as arguments; decisions go out as frozen values that the store, the
services and the loops carry out. That is why the whole of it runs under property tests with a
virtual clock.
"""
