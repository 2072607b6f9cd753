"""Stubs of the contract, written by `make proto`: do not edit."""
