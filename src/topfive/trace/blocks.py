"""One run of a trace as stacks: what a flame graph draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from topfive.trace.events import MODELLED_CATEGORY, Event
from topfive.trace.nesting import Nested, nested
from topfive.trace.summary import RUN, counted, cycles_of, is_node, layer_of, operator_of, provider_of
from topfive.trace.validation import SLACK, Trace

__all__ = ["Block", "host_block", "modelled_block"]


@dataclass
class Block:
    """A rectangle: label, words for its tooltip, microseconds, modelled cycles.

    pair: (provider, operator) of a node; step: which step of one it is. children lie in it one after another;
    beside: things that go on at the same time, each with a row of its own below.
    """

    label: str
    said: str = ""
    pair: tuple[str, str] = ("", "")
    step: str = ""
    microseconds: float = 0.0
    cycles: int = 0
    children: dict[tuple[str, str], Block] = field(default_factory=dict)
    beside: dict[str, Block] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows that it takes with what is in it."""
        deepest = max((child.rows for child in self.children.values()), default=0)
        return 1 + max(deepest, len(self.beside))

    def walk(self) -> Iterator[Block]:
        """This block and all in it."""
        yield self
        for inner in (*self.children.values(), *self.beside.values()):
            yield from inner.walk()

    def sums(self) -> dict[tuple[str, str], float]:
        """Microseconds by (provider, operator), without the nodes inside a node; longest first."""
        found: dict[tuple[str, str], float] = {}
        for block in self.walk():
            if block.pair[1]:
                inner = sum(child.microseconds for child in block.children.values() if child.pair[1])
                found[block.pair] = found.get(block.pair, 0.0) + block.microseconds - inner
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def host_block(trace: Trace) -> Block:
    """The host lane's run of median length, or all nodes where no runs are told apart.

    Raises TraceError if it holds no node.
    """
    counted(trace, "host")
    trees = [tree for those in nested(trace.events, SLACK / 2).values() for tree in those]
    runs = [found for tree in trees for found in tree.walk() if found.event["name"] == RUN]
    if not runs:
        root = Block("all nodes", "all nodes")
        _add(root, trees)
        root.microseconds = sum(child.microseconds for child in root.children.values())
        return root
    middle = sorted(runs, key=lambda run: run.duration)[(len(runs) - 1) // 2]
    words = f"run {runs.index(middle) + 1} of {len(runs)}, the median" if len(runs) > 1 else "one run"
    root = Block(RUN, words, microseconds=middle.duration)
    _add(root, middle.children)
    return root


def _add(block: Block, trees: Iterable[Nested]) -> None:
    """Put nodes and steps into a block; what is neither gives its place to what is in it."""
    for tree in trees:
        event = tree.event
        step = event.get("args", {}).get("sub_action")
        if event.get("cat") == MODELLED_CATEGORY:
            continue
        if not is_node(event) and not isinstance(step, str):
            _add(block, tree.children)
            continue
        child = _child(block, event, step if isinstance(step, str) else "")
        child.microseconds += tree.duration
        _add(child, tree.children)


def _child(block: Block, event: Event, step: str = "") -> Block:
    key = (str(event["name"]), step)
    if key not in block.children:
        if step:
            made = Block(step, f"{step} of {block.label}", step=step)
        else:
            layer, pair = layer_of(event), (provider_of(event), operator_of(event))
            piece = event["args"].get("piece")
            part = f", {piece}" if piece else ""
            made = Block(layer, f"{layer}{part}, {pair[1]} on {pair[0]}", pair)
        block.children[key] = made
    return block.children[key]


def modelled_block(trace: Trace) -> Block:
    """The modelled lane: its layers, each with its engines beside each other. TraceError without one.

    All runs are modelled alike: the first is taken.
    """
    events = [found.event for found in counted(trace, "modelled")]
    first = events[0]["args"].get("run")
    root = Block("all layers", "Gemmini, modelled")
    layers: dict[str, Block] = {}
    for event in events:
        if event["args"].get("run") != first:
            continue
        layer = layers[layer_of(event)] = _child(root, event)
        layer.microseconds += event["dur"]
        layer.cycles += cycles_of(event)
        layer.said = f"{layer.label}, {layer.pair[1]}, {layer.cycles:,} cycles, modelled"
        root.microseconds += event["dur"]
        root.cycles += cycles_of(event)
    for event in trace.events:
        args = event.get("args", {})
        parent = layers.get(str(args.get("parent")))
        if event.get("cat") != MODELLED_CATEGORY or parent is None or args.get("run") != first:
            continue
        engine = str(args.get("sub_action"))
        said = f"{engine} busy in {parent.label}, modelled"
        parent.beside[engine] = Block(engine, said, step=engine, microseconds=event["dur"])
    return root
