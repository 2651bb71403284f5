"""The version that the emulated TensorRT and its trtexec say they are, without what takes long to import."""

import os

VERSION = os.environ.get("TOPFIVE_EMULATED_TENSORRT", "10.13.3.9")
MAJOR, MINOR, PATCH = (int(part) for part in VERSION.split(".")[:3])
