"""Gemmini, the systolic array generator: exact arithmetic, and the fast form of it."""
