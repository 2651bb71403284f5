"""Cambricon's MLU370 through MagicMind: its Python API to build and run, mm_run to measure."""
