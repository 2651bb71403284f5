"""Calibration: running the float model over pictures and choosing each activation's range."""

from __future__ import annotations

from topfive.quantize.calibration.measure import measure, minmax
from topfive.quantize.calibration.method import METHODS, Method
from topfive.quantize.calibration.source import calibrated_tensors
from topfive.quantize.calibration.state import State

__all__ = ["METHODS", "Method", "State", "calibrated_tensors", "measure", "minmax"]
