"""Lays a graph without circles out in floors, so that arrows point down, are short, and cross little."""

from __future__ import annotations

import itertools

__all__ = ["direct", "floors"]

Graph = dict[str, set[str]]
Rows = list[list[str]]


def direct(graph: Graph) -> Graph:
    """The graph without the arrows that others imply."""

    def reach(node: str) -> set[str]:
        return graph[node].union(*(reach(below) for below in graph[node]))

    return {node: under - {far for below in under for far in reach(below)} for node, under in graph.items()}


def floors(graph: Graph) -> Rows:
    """The nodes by floor, the lowest first, each floor from left to right.

    A node stands above all that it points to. From the lowest floors that allow this, single moves lead to an order
    in which none makes the picture clearer. The same graph gives the same floors.
    """
    shown = direct(graph)
    level: dict[str, int] = {}

    def floor(node: str) -> int:
        if node not in level:
            level[node] = 1 + max(map(floor, sorted(graph[node])), default=-1)
        return level[node]

    height = 1 + max(map(floor, sorted(graph)))
    rows = [sorted(node for node in graph if level[node] == number) for number in range(height)]
    best = _cost(rows, shown)
    improved = True
    while improved:
        improved = False
        for other in itertools.chain(_swaps(rows), _moves(rows, shown)):
            if (cost := _cost(other, shown)) < best - 1e-9:
                rows, best, improved = other, cost, True
                break
    return rows


def _swaps(rows: Rows) -> itertools.chain[Rows]:
    return itertools.chain.from_iterable(
        (_with(rows, {number: _swapped(row, a, b)}) for a, b in itertools.combinations(range(len(row)), 2))
        for number, row in enumerate(rows)
    )


def _moves(rows: Rows, graph: Graph) -> itertools.chain[Rows]:
    level = {node: number for number, row in enumerate(rows) for node in row}

    def of(node: str) -> list[Rows]:
        lowest = 1 + max((level[below] for below in graph[node]), default=-1)
        highest = min((level[above] for above in graph if node in graph[above]), default=len(rows)) - 1
        others = []
        for target in range(lowest, highest + 1):
            if target == level[node] or len(rows[level[node]]) == 1:
                continue
            left = [other for other in rows[level[node]] if other != node]
            for place in range(len(rows[target]) + 1):
                joined = [*rows[target][:place], node, *rows[target][place:]]
                others.append(_with(rows, {level[node]: left, target: joined}))
        return others

    return itertools.chain.from_iterable(of(node) for node in sorted(level))


def _with(rows: Rows, changed: dict[int, list[str]]) -> Rows:
    return [changed.get(number, row) for number, row in enumerate(rows)]


def _swapped(row: list[str], a: int, b: int) -> list[str]:
    other = list(row)
    other[a], other[b] = other[b], other[a]
    return other


def _cost(rows: Rows, graph: Graph) -> float:
    """How unclear: lengths across and down, crossings, and arrows that pass behind a node."""
    place = {node: ((i + 0.5) / len(row), y) for y, row in enumerate(rows) for i, node in enumerate(row)}
    edges = [(place[node], place[below]) for node in sorted(graph) for below in sorted(graph[node])]
    cost = sum(abs(a[0] - b[0]) + (a[1] - b[1]) ** 1.5 / 3 for a, b in edges)
    cost += sum(0.4 * max(0, len(row) - 4) for row in rows)
    for (x0, y0), (x1, y1) in edges:
        for row in range(y1 + 1, y0):
            share = (y0 - row) / (y0 - y1)
            at = x0 + (x1 - x0) * share * share * (3 - 2 * share)
            cost += 4 * sum(abs(at - place[node][0]) < 0.11 for node in rows[row])
    for (a, b), (c, d) in itertools.combinations(edges, 2):
        top, bottom = min(a[1], c[1]), max(b[1], d[1])
        if top > bottom and a != c and b != d:
            cost += (_at(a, b, top) - _at(c, d, top)) * (_at(a, b, bottom) - _at(c, d, bottom)) < 0
    return cost


def _at(start: tuple[float, int], end: tuple[float, int], y: float) -> float:
    return start[0] + (end[0] - start[0]) * (start[1] - y) / (start[1] - end[1])
