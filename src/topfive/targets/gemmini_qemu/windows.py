"""The sliding window of a convolution or pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from topfive.errors import CompileError

__all__ = ["Window", "window_of"]

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Rows and columns of everything, in the order of topfive_window. `end`: where padding ends."""

    size: Pair
    channels: int
    out: Pair
    kernel: Pair
    stride: Pair
    dilation: Pair
    pad: Pair
    end: Pair

    @classmethod
    def of_rows(cls, rows: int, depth: int) -> Window:
        """A matrix [rows, depth] as one row of pixels under a 1 x 1 kernel."""
        return cls((1, rows), depth, (1, rows), (1, 1), (1, 1), (1, 1), (0, 0), (1, rows))

    @property
    def out_rows(self) -> int:
        """Rows of the result."""
        return self.out[0]

    @property
    def out_cols(self) -> int:
        """Columns of the result."""
        return self.out[1]

    def initialiser(self) -> str:
        """The C initialiser of a topfive_window."""
        parts = (self.size, (self.channels,), self.out, self.kernel, self.stride, self.dilation)
        numbers = [str(n) for part in (*parts, self.pad, self.end) for n in part]
        return "{" + ", ".join(numbers) + "}"


def window_of(attrs: Mapping[str, Any], shape: tuple[int, ...], kernel: tuple[int, ...]) -> Window:
    """The window that a node's attributes describe over an input of shape [N, C, rows, columns].

    Output sizes follow the ONNX operators Conv and MaxPool: rounded down, or up with ceil_mode, where a
    window that would begin in the end's padding is left out. CompileError if N is not 1.
    """
    if len(shape) != 4 or len(kernel) != 2 or shape[0] != 1:
        raise CompileError(f"a window of {list(kernel)} over {list(shape)}: only one picture")
    size: Pair = (shape[2], shape[3])
    stride, dilation = (tuple(attrs.get(key) or (1, 1)) for key in ("strides", "dilations"))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    begin, end = _pads(attrs, size, reach, stride)
    out = []
    for n, before, after, r, s in zip(size, begin, end, reach, stride, strict=True):
        span = n + before + after - r
        count = (-(-span // s) if attrs.get("ceil_mode", 0) else span // s) + 1
        out.append(count - 1 if attrs.get("ceil_mode", 0) and (count - 1) * s >= n + before else count)
    if min(out) < 1:
        raise CompileError(f"a window of {list(kernel)} does not fit {list(size)}")
    ends = (size[0] + end[0], size[1] + end[1])
    pairs = [(int(p[0]), int(p[1])) for p in (out, kernel, stride, dilation, begin, ends)]
    return Window(size, shape[1], *pairs)


def _pads(
    attrs: Mapping[str, Any], size: Pair, reach: list[int], stride: tuple[int, ...]
) -> tuple[list[int], list[int]]:
    """Padding before and after, rows then columns."""
    auto = attrs.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(size, stride, reach, strict=True)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        return (small, large) if auto == "SAME_UPPER" else (large, small)
    pads = [0] * 4 if auto == "VALID" else list(attrs.get("pads") or [0] * 4)
    if min(pads) < 0:
        raise CompileError("negative padding has no C form")
    return pads[:2], pads[2:]
