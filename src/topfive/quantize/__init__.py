"""Rewriting a float model to a quant mode: optimise, calibrate, quantise."""
