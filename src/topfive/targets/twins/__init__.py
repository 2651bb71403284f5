"""Numeric twins: the documented arithmetic of accelerators that are not here, on the CPU."""
