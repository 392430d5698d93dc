"""Threads with a progress bar: decoding, resizing and compressing images release the interpreter lock."""

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
    """Apply `function` to every item, results in the order of the items.

    Works chunk by chunk, so that results waiting to be taken stay few however many items there are. An
    error in one item stops the work at once.
    """
    with ThreadPoolExecutor(workers()) as executor, tqdm(total=len(items), desc=title, unit="image") as bar:
        for start in range(0, len(items), CHUNK):
            for result in executor.map(function, items[start : start + CHUNK]):
                bar.update()
                yield result
