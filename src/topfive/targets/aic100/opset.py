"""Converting a model to the ONNX opset that a compiler reads.

onnx's converter has no way from opset 14 to 13, whose operators differ in types that no float32 model uses:
that step is taken here.
"""

from __future__ import annotations

import onnx
from onnx import defs, version_converter

from topfive.errors import CompileError
from topfive.graph import attributes, node_label

__all__ = ["converted"]

STEP = 14
# Operators of opset 14 that are those of 13 for more types (onnx/docs/Changelog.md).
MORE_TYPES = {"Add", "CumSum", "Div", "Identity", "Mul", "Relu", "Sub"}


def converted(model: onnx.ModelProto, opset: str) -> onnx.ModelProto:
    """The model in this opset; itself for "". Raises CompileError when an operator has no form there."""
    if not opset:
        return model
    version = int(opset)
    try:
        found = model
        if version < STEP <= _version(model):
            found = _step_down(version_converter.convert_version(model, STEP))
        found = version_converter.convert_version(found, version)
        onnx.checker.check_model(found, full_check=True)
    except CompileError:
        raise
    except Exception as error:
        raise CompileError(f"the model cannot be converted to opset {opset}", details=str(error)) from None
    return found


def _version(model: onnx.ModelProto) -> int:
    return next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def _step_down(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of opset 14 as one of 13; CompileError naming a node that 13 does not have."""
    for node in model.graph.node:
        plain = node.op_type == "Reshape" and not attributes(node).get("allowzero", 0)
        if node.domain in ("", "ai.onnx") and not plain and not _same(node.op_type):
            raise CompileError(f"{node_label(node)} has no form in opset {STEP - 1}")
    for imported in model.opset_import:
        if imported.domain in ("", "ai.onnx"):
            imported.version = STEP - 1
    return model


def _same(operator: str) -> bool:
    if operator in MORE_TYPES:
        return True
    return bool(defs.get_schema(operator, STEP).since_version < STEP)
