"""Threads with a progress bar, for image work: decoding, resizing and compressing release the GIL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

from metaldefect.hardware import workers

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 1024


def map_threads(function: Callable[[Item], Result], items: Sequence[Item], title: str) -> Iterator[Result]:
    """Apply `function` to every item in threads; yield the results in the order of the items.

    Works in chunks, so few finished results wait in memory, however many items there are. Raises the first
    exception of `function` and starts no further chunk.
    """
    with ThreadPoolExecutor(workers()) as executor, tqdm(total=len(items), desc=title, unit="image") as bar:
        for start in range(0, len(items), CHUNK):
            for result in executor.map(function, items[start : start + CHUNK]):
                bar.update()
                yield result
