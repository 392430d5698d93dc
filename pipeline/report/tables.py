"""Nested metrics as tables that a person can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metaldefect.metrics.directions import improvement
from pipeline.main_metrics import estimate, formatted, number
from pipeline.run import flatten

# A stage puts the intervals of its numbers here when they are not part of the numbers themselves.
INTERVALS = "interval_95"


@dataclass
class Table:
    """Header cells and rows of cells; a cell is (text, class), and the first cell of a row is its name."""

    title: str
    header: list[str]
    rows: list[list[tuple[str, str]]] = field(default_factory=list)


def tables(metrics: Mapping[str, Any], title: str = "") -> list[Table]:
    """Tables of nested metrics.

    `before` and `after` mappings become columns next to their difference, a mapping of mappings becomes a
    table with one row per mapping, and plain values of one level become a table of two columns.
    """
    found: list[Table] = []
    metrics = with_intervals(metrics)
    plain = {key: value for key, value in metrics.items() if is_leaf(value)}
    nested = {key: value for key, value in metrics.items() if not is_leaf(value)}
    if plain:
        rows = [[(words(key), ""), (cell(value), "number")] for key, value in plain.items()]
        found.append(Table(title, ["", ""], rows))
    if isinstance(nested.get("before"), Mapping) and isinstance(nested.get("after"), Mapping):
        found.append(comparison(nested.pop("before"), nested.pop("after"), title))
    for key, value in nested.items():
        name = f"{title} · {words(key)}" if title else words(key)
        rows_of = value if isinstance(value, Mapping) else dict(enumerate(value, 1))
        if is_matrix(rows_of):
            found.append(matrix(rows_of, name))
        else:
            found += tables({str(inner): item for inner, item in rows_of.items()}, name)
    return found


def with_intervals(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics with the intervals from `interval_95` merged into their numbers."""
    apart = metrics.get(INTERVALS)
    if not isinstance(apart, Mapping):
        return dict(metrics)
    joined: dict[str, Any] = {}
    for key, value in metrics.items():
        bounds = apart.get(key)
        if isinstance(bounds, list) and len(bounds) == 2 and isinstance(value, int | float):
            joined[key] = {"value": value, "low": bounds[0], "high": bounds[1]}
        elif key != INTERVALS:
            joined[key] = value
    rest = {key: bounds for key, bounds in apart.items() if key not in joined}
    return joined | ({INTERVALS: rest} if rest else {})


def is_leaf(value: Any) -> bool:
    """Whether a value is a scalar, a list of scalars, or a value with its interval."""
    if isinstance(value, Mapping):
        return not value or estimate(value) is not None
    return not (isinstance(value, list) and any(isinstance(item, dict | list) for item in value))


def is_matrix(value: Mapping[Any, Any]) -> bool:
    """Whether `value` holds at least two mappings of leaves that share a key."""
    items = list(value.values())
    if len(items) < 2 or not all(isinstance(item, Mapping) and estimate(item) is None for item in items):
        return False
    shared = set.intersection(*(set(item) for item in items))
    return bool(shared) and all(is_leaf(leaf) for item in items for leaf in item.values())


def matrix(content: Mapping[Any, Mapping[str, Any]], title: str) -> Table:
    """A table with one row per mapping and one column per key."""
    columns = list(dict.fromkeys(key for item in content.values() for key in item))
    rows = [
        [(words(name), ""), *((cell(item.get(key)), "number") for key in columns)]
        for name, item in content.items()
    ]
    return Table(title, ["", *(words(key) for key in columns)], rows)


def comparison(before: Mapping[str, Any], after: Mapping[str, Any], title: str) -> Table:
    """A table with one row per metric: before, after, and the difference, marked good or bad."""
    first, second = dict(leaves(before)), dict(leaves(after))
    table = Table(title, ["", "before", "after", "change"])
    for key in dict.fromkeys([*first, *second]):
        text, kind = change(key, middle(first.get(key)), middle(second.get(key)))
        table.rows.append(
            [
                (words(key), ""),
                (cell(first.get(key)), "number"),
                (cell(second.get(key)), "number strong"),
                (text, f"number {kind}"),
            ]
        )
    return table


def leaves(content: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """`flatten`, except that a value with its interval stays whole."""
    whole = {key: value for key, value in content.items() if is_leaf(value)}
    rest = {key: value for key, value in content.items() if not is_leaf(value)}
    found = list(whole.items())
    for key, value in rest.items():
        inner = leaves(value) if isinstance(value, Mapping) else flatten({key: value})
        found += [(f"{key}.{name}", item) for name, item in inner]
    return found


def change(key: str, before: float | None, after: float | None) -> tuple[str, str]:
    """(signed difference, `good` or `bad`); the second is empty if neither direction is better."""
    if before is None or after is None:
        return "", ""
    difference = after - before
    if difference == 0:
        return "0", ""
    better = improvement(key, before, after)
    sign = "+" if difference > 0 else "−"
    kind = "" if not better else "good" if better > 0 else "bad"
    return f"{sign}{formatted(abs(difference))}", kind


def middle(value: Any) -> float | None:
    """The number of a leaf, without its interval."""
    return number({"leaf": value}, "leaf")


def cell(value: Any) -> str:
    """A leaf as text; a value with an interval looks like `0.912 [0.89, 0.934]`."""
    if value == {}:
        return "–"
    if (estimated := estimate(value)) is None:
        return formatted(value)
    centre, interval = estimated
    return f"{formatted(centre)} [{formatted(interval)}]" if interval else formatted(centre)


def words(key: Any) -> str:
    """A key as words: `rolled-in_scale` -> `rolled-in scale`, `after.ssim` -> `after · ssim`."""
    return str(key).replace("_", " ").replace(".", " · ")
