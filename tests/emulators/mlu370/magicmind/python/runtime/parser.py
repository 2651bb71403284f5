"""Emulated: Parser."""

import onnx

from magicmind import failing
from magicmind.python.runtime import Code, ModelKind, Status


class Parser:
    def __init__(self, kind):
        if kind is not ModelKind.kOnnx:
            raise ValueError("only kOnnx is emulated")

    def parse(self, network, path):
        if failing("parse"):
            return Status(Code.INVALID_ARGUMENT, "unsupported operator")
        try:
            network.model = onnx.load(path)
            onnx.checker.check_model(network.model)
        except Exception as error:
            return Status(Code.INVALID_ARGUMENT, str(error))
        return Status()
