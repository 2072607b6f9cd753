"""The daemon's decisions carried out: live state, the store and sessions brought together.

Works on records and core values; knows neither messages nor transport.
"""
