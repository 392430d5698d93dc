"""A drawing of the pipeline: `dvc.yaml` -> layered layout -> inline SVG."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from markupsafe import Markup, escape

from pipeline.run import lookup

BOX_WIDTH, BOX_HEIGHT = 184, 54
GAP_X, GAP_Y = 32, 22
ROW_GAP = 40
MARGIN = 14
COLUMNS = 5


@dataclass(frozen=True)
class StageEntry:
    """A stage of `dvc.yaml`, with its templates filled in."""

    name: str
    command: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]


def stage_entries(definition: Mapping[str, Any], params: Mapping[str, Any]) -> list[StageEntry]:
    """The stages of a parsed `dvc.yaml`, in its order; values from `params` replace `${a.b}`."""
    entries = []
    for name, entry in (definition.get("stages") or {}).items():
        command = entry.get("cmd", "")
        outs = [path for key in ("outs", "metrics", "plots") for path in paths(entry.get(key))]
        entries.append(
            StageEntry(
                name=name,
                command=filled(" && ".join(command) if isinstance(command, list) else command, params),
                deps=tuple(filled(path, params) for path in paths(entry.get("deps"))),
                outs=tuple(filled(path, params) for path in outs),
            )
        )
    return entries


def paths(items: list[Any] | None) -> list[str]:
    """The paths in a `deps` or `outs` list, whose items are `path` or `path: {options}`."""
    return [path for item in items or [] for path in ([item] if isinstance(item, str) else item)]


def filled(text: str, params: Mapping[str, Any]) -> str:
    """Replace `${a.b}` by the value of `a.b` in `params`; leave unknown keys as they are."""

    def value(match: re.Match[str]) -> str:
        found = lookup(params, match[1].strip())
        return match[0] if found is None else str(found)

    return re.sub(r"\$\{([^}]+)\}", value, text)


def dependencies(entries: list[StageEntry]) -> dict[str, set[str]]:
    """Stage -> the stages whose outs it reads, or whose outs contain or lie inside what it reads."""
    result: dict[str, set[str]] = {entry.name: set() for entry in entries}
    for entry in entries:
        for other in entries:
            if other.name != entry.name and any(
                overlap(dependency, out) for dependency in entry.deps for out in other.outs
            ):
                result[entry.name].add(other.name)
    return result


def overlap(first: str, second: str) -> bool:
    """Whether two paths are equal, or one contains the other."""
    one, two = PurePosixPath(first), PurePosixPath(second)
    return one == two or one in two.parents or two in one.parents


def reduced(upstream: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The graph without edges that a longer path already implies (transitive reduction)."""
    closure: dict[str, set[str]] = {}

    def above(name: str) -> set[str]:
        if name not in closure:
            closure[name] = set()  # ends the recursion on a cycle, although DVC refuses cycles
            closure[name] = set().union(*({parent} | above(parent) for parent in upstream[name]))
        return closure[name]

    return {
        name: {
            parent
            for parent in parents
            if not any(parent in above(other) for other in parents if other != parent)
        }
        for name, parents in upstream.items()
    }


def layers(upstream: Mapping[str, set[str]]) -> dict[str, int]:
    """Stage -> its layer, as late as its readers allow, so that a side branch is drawn next to its join."""
    downstream: dict[str, set[str]] = {name: set() for name in upstream}
    for name, parents in upstream.items():
        for parent in parents:
            downstream[parent].add(name)
    height: dict[str, int] = {}

    def measure(name: str) -> int:
        if name not in height:
            height[name] = 0
            height[name] = max((measure(child) + 1 for child in downstream[name]), default=0)
        return height[name]

    deepest = max((measure(name) for name in upstream), default=0)
    return {name: deepest - height[name] for name in upstream}


@dataclass(frozen=True)
class GraphLayout:
    """Positions in pixels: the corner of each box, the top of its row, and the size of the drawing."""

    corner: dict[str, tuple[int, int]]
    row: dict[str, int]
    width: int
    height: int


def layout(upstream: Mapping[str, set[str]]) -> GraphLayout:
    """Place the boxes: one column per layer, with a new row after every `COLUMNS` layers."""
    layer = layers(upstream)
    members: dict[int, list[str]] = {}
    for name in upstream:
        members.setdefault(layer[name], []).append(name)
    count = max(members, default=-1) + 1
    corner: dict[str, tuple[int, int]] = {}
    row: dict[str, int] = {}
    top = MARGIN
    for start in range(0, count, COLUMNS):
        columns = range(start, min(start + COLUMNS, count))
        lanes = max(len(members[column]) for column in columns)
        for column in columns:
            for lane, name in enumerate(members[column]):
                x = MARGIN + (column - start) * (BOX_WIDTH + GAP_X)
                corner[name] = (x, top + lane * (BOX_HEIGHT + GAP_Y))
                row[name] = top
        top += lanes * (BOX_HEIGHT + GAP_Y) - GAP_Y + ROW_GAP
    width = 2 * MARGIN + min(count, COLUMNS) * (BOX_WIDTH + GAP_X) - GAP_X
    return GraphLayout(corner, row, width, top - ROW_GAP + MARGIN)


def edge_path(start: tuple[int, int], end: tuple[int, int], end_row: int) -> str:
    """An SVG path between two boxes, given by their corners; `end_row` is the y of the target's row.

    Within a row it is a curve from side to side. To a later row it runs through the gutter above that row,
    then into the top of the row's first box, or past that box into the left side of a lower one.
    """
    x0, y0 = start[0] + BOX_WIDTH, start[1] + BOX_HEIGHT // 2
    x1, y1 = end[0], end[1] + BOX_HEIGHT // 2
    if x1 > x0 and start[1] >= end_row:
        middle = (x0 + x1) // 2
        return f"M{x0},{y0} C{middle},{y0} {middle},{y1} {x1},{y1}"
    x0, y0 = start[0] + BOX_WIDTH // 2, start[1] + BOX_HEIGHT
    gutter = end_row - ROW_GAP // 2
    if end[1] == end_row:
        return elbows(
            [(x0, y0), (x0, gutter), (end[0] + BOX_WIDTH // 2, gutter), (end[0] + BOX_WIDTH // 2, end[1])]
        )
    gap = end[0] - GAP_X // 2
    gutter -= 8  # keep clear of the edge that enters the row's first box
    return elbows([(x0, y0), (x0, gutter), (gap, gutter), (gap, y1), (x1, y1)])


def elbows(points: list[tuple[int, int]], radius: int = 8) -> str:
    """An SVG path along horizontal and vertical lines with rounded corners."""
    points = [point for point, before in zip(points, [None, *points], strict=False) if point != before]
    parts = [f"M{points[0][0]},{points[0][1]}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        (ax, ay), (bx, by) = towards(corner, before, radius), towards(corner, after, radius)
        parts.append(f"L{ax},{ay} Q{corner[0]},{corner[1]} {bx},{by}")
    return " ".join([*parts, f"L{points[-1][0]},{points[-1][1]}"])


def towards(start: tuple[int, int], end: tuple[int, int], distance: int) -> tuple[int, int]:
    """The point `distance` from `start` on a horizontal or vertical line to `end`."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    step = min(distance, abs(dx) + abs(dy))
    return start[0] + step * ((dx > 0) - (dx < 0)), start[1] + step * ((dy > 0) - (dy < 0))


def draw_graph(entries: list[StageEntry], notes: Mapping[str, str]) -> Markup:
    """The pipeline as an SVG element: one linked box per stage, with its note on a second line."""
    upstream = reduced(dependencies(entries))
    place = layout(upstream)
    corner, width, height = place.corner, place.width, place.height
    parts = [
        f'<svg class="graph" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="group" '
        'aria-label="The stages of the pipeline and what they depend on">',
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>',
    ]
    for name, parents in upstream.items():
        for parent in sorted(parents):
            path = edge_path(corner[parent], corner[name], place.row[name])
            parts.append(f'<path class="edge" d="{path}" marker-end="url(#arrow)"/>')
    for name, (x, y) in corner.items():
        note = notes.get(name, "")
        title_y = y + (BOX_HEIGHT // 2 - 4 if note else BOX_HEIGHT // 2 + 5)
        middle = x + BOX_WIDTH // 2
        parts.append(
            f'<a href="#{escape(name)}"><rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" '
            f'rx="9"/><text x="{middle}" y="{title_y}">{escape(name)}</text>'
        )
        if note:
            parts.append(f'<text class="note" x="{middle}" y="{title_y + 19}">{escape(note)}</text>')
        parts.append("</a>")
    parts.append("</svg>")
    return Markup("".join(str(part) for part in parts))
