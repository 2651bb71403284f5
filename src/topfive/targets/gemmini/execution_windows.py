"""Windows of convolutions and max pools, and when Gemmini takes them directly (TryConvOnSystolic)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx

from topfive.graph import attributes
from topfive.targets.gemmini.execution_plan import SubAction
from topfive.targets.gemmini.layers import Conv, Matmul
from topfive.targets.gemmini.tiling import NO_POOL, Pool

__all__ = ["PoolWindow", "Window", "direct_work", "grouped_products", "pool_window"]


@dataclass(frozen=True)
class Window:
    """A QLinearConv's geometry; sizes are (height, width), pads (top, left, bottom, right)."""

    batch: int
    channels: int
    size: tuple[int, ...]
    out_channels: int
    out_size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int
    depth: int
    bias: bool

    @property
    def unrolled(self) -> bool:
        """Whether the input needs im2col: not for one-by-one windows that touch every pixel."""
        return {*self.kernel, *self.strides} != {1} or any(self.pads)

    def not_direct(self) -> str:
        """Why TryConvOnSystolic leaves the convolution to im2col, or ""."""
        checks = {
            f"{self.groups} groups": self.groups == 1,
            f"the input is {_by(self.size)}, not square": len({*self.size}) == 1,
            f"the output is {_by(self.out_size)}, not square": len({*self.out_size}) == 1,
            f"the kernel is {_by(self.kernel)}, not square": len({*self.kernel}) == 1,
            f"dilation {_by(self.dilations)}": {*self.dilations} == {1},
            f"unequal pads {list(self.pads)}": len({*self.pads}) == 1,
            f"unequal strides {list(self.strides)}": len({*self.strides}) == 1,
        }
        return next((reason for reason, good in checks.items() if not good), "")


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in sizes)


@dataclass(frozen=True)
class PoolWindow:
    """A MaxPool's geometry, as `Window`."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]

    def not_direct(self) -> str:
        """Why TryConvOnSystolic cannot do this pool while storing, or ""; of the pads it reads two."""
        if self.kernel[0] != self.kernel[1]:
            return f"the pool's kernel is {_by(self.kernel)}, not square"
        if self.strides[0] != self.strides[1]:
            return f"the pool's strides are {list(self.strides)}"
        if self.pads[0] != self.pads[1]:
            return f"the pool's pads are {list(self.pads)}"
        return ""

    def misread(self, size: tuple[int, ...]) -> bool:
        """Whether the store, which takes pads[0] on every side, would give another size than the graph."""
        here = [
            (n + self.pads[i] + self.pads[i + 2] - k) // s
            for i, (n, k, s) in enumerate(zip(size, self.kernel, self.strides, strict=True))
        ]
        stored = [
            (n + 2 * self.pads[0] - k) // s for n, k, s in zip(size, self.kernel, self.strides, strict=True)
        ]
        return here != stored

    @property
    def square(self) -> Pool:
        """(size, stride, padding) as the store takes them."""
        return self.kernel[0], self.strides[0], self.pads[0]


def pool_window(node: onnx.NodeProto) -> PoolWindow:
    """The geometry of a MaxPool node of two dimensions."""
    found = attributes(node)
    return PoolWindow(
        tuple(found["kernel_shape"]), tuple(found.get("strides", [1, 1])), tuple(found.get("pads", [0] * 4))
    )


def direct_work(window: Window, pool: PoolWindow | None) -> Conv:
    """A direct convolution with its pool, for the cycle model."""
    size = (window.size[0], window.size[1])
    square = pool.square if pool is not None else NO_POOL
    return Conv(
        window.batch,
        size,
        window.channels,
        window.out_channels,
        window.kernel[0],
        window.strides[0],
        window.pads[0],
        pool=square,
        bias=window.bias,
    )


def grouped_products(window: Window) -> tuple[tuple[SubAction, ...], Matmul]:
    """Of an NHWC convolution: im2col once a picture, then a product a group with its bias row repeated."""
    pixels, groups = prod(window.out_size), window.groups
    channels, times = window.out_channels // groups, window.batch * groups
    product = SubAction("matmul", times, (channels, pixels, window.depth))
    steps = (SubAction("im2col", window.batch), product) if window.unrolled else (product,)
    return steps, Matmul(pixels, channels, window.depth, times, window.bias)
