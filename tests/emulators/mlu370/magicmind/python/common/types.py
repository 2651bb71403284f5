"""Emulated: data types."""

import enum

import numpy as np


class DataType(enum.Enum):
    FLOAT32 = "FLOAT"
    FLOAT16 = "HALF"
    INT8 = "INT8"
    UINT8 = "UINT8"


def get_datatype_by_numpy(dtype):
    found = {"float32": DataType.FLOAT32, "float16": DataType.FLOAT16, "int8": DataType.INT8}
    return found[np.dtype(dtype).name]
