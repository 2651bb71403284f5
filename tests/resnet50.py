"""ResNet-50 v1 as Gemmini's layers: 53 convolutions, stride on the first 1x1, 16 residual additions."""

from __future__ import annotations

from topfive.targets.gemmini.layers import Conv, Layer, Matmul, ResidualAdd

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))


def resnet50(batch: int, *, classifier: bool = True) -> list[Layer]:
    stem = Conv(batch, (224, 224), 3, 64, 7, 2, 3, pool=(3, 2, 1))
    layers = [Layer("conv1", "QLinearConv", stem)]

    def conv(name: str, side: int, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        work = Conv(batch, (side, side), inputs, outputs, kernel, stride, kernel // 2)
        layers.append(Layer(name, "QLinearConv", work))

    side, inputs = 56, 64
    for stage, (width, blocks) in enumerate(STAGES):
        for block in range(blocks):
            name, stride = f"s{stage}b{block}", 2 if stage and not block else 1
            conv(f"{name}_reduce", side, inputs, width, stride=stride)
            if not block:
                conv(f"{name}_project", side, inputs, 4 * width, stride=stride)
            side, inputs = side // stride, 4 * width
            conv(f"{name}_3x3", side, width, width, kernel=3)
            conv(f"{name}_expand", side, width, inputs)
            layers.append(Layer(f"{name}_add", "QLinearAdd", ResidualAdd(batch * side * side, inputs)))
    if classifier:
        layers.append(Layer("fc", "QLinearMatMul", Matmul(batch, 1000, 2048)))
    return layers
