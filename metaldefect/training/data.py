"""Training data: images read when a step needs them, and batches that depend only on the step."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from metaldefect.artifacts import sha256_file
from metaldefect.errors import UserError
from metaldefect.hardware import workers
from metaldefect.images import U8, Channels, read_image

KEPT_BYTES = 64 * 1024**2
AHEAD = 2  # batches to prepare while the device computes
READERS = 8  # threads at most that prepare them beside a GPU

View = Callable[[Any, torch.Generator], Any]


class Images(Protocol):
    """Images of one size, by index: an array `uint8 [N, H, W]` or `[N, H, W, 3]`, or `LazyImages`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, as of an array."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> U8: ...


class LazyImages(Dataset[U8]):
    """Images that are read or drawn on access.

    The first ones stay in memory after reading, up to `kept_bytes`: memory does not grow with the number of
    images, and small sets are read only once.

    Args:
        readers: one function per image; must return the same `uint8` array at every call.
        shape: of one image.
        kept_bytes: maximum size of the images kept in memory; 0 keeps none.
    """

    def __init__(
        self, readers: Sequence[Callable[[], U8]], shape: tuple[int, ...], kept_bytes: int = KEPT_BYTES
    ) -> None:
        self.readers = readers
        self.shape = (len(readers), *shape)
        self._keep = kept_bytes // int(np.prod(shape))
        self._kept: dict[int, U8] = {}

    def __len__(self) -> int:
        return len(self.readers)

    def __getitem__(self, index: int) -> U8:
        found = self._kept.get(index)
        if found is None:
            found = np.array(self.readers[index]())
            if found.shape != self.shape[1:]:
                raise ValueError(f"image {index} has shape {found.shape}, expected {self.shape[1:]}")
            if index < self._keep:
                self._kept[index] = found
        return found

    def stack(self, indices: Iterable[int]) -> U8:
        """Return some of the images as one array."""
        return np.stack([self[int(index)] for index in indices])

    def digest(self) -> str:
        """SHA-256 of all pixels."""
        digest = hashlib.sha256(str(self.shape).encode())
        for index in range(len(self)):
            digest.update(np.ascontiguousarray(self[index]).data)
        return digest.hexdigest()


class ImageFiles(LazyImages):
    """Images read from files on access, `uint8 [N, size, size]` or in colour `[N, size, size, 3]`."""

    def __init__(self, paths: Sequence[Path], size: int, channels: Channels = 1) -> None:
        readers = [partial(read_image, path, channels, size=size) for path in paths]
        super().__init__(readers, (size, size) if channels == 1 else (size, size, 3), kept_bytes=0)
        self.paths = paths

    def digest(self) -> str:
        """SHA-256 of the files' bytes, which is faster than decoding them."""
        digest = hashlib.sha256(str(self.shape).encode())
        with ThreadPoolExecutor(workers()) as pool:
            for one in pool.map(sha256_file, self.paths):
                digest.update(one.encode())
        return digest.hexdigest()


class Batches(Protocol):
    """Batches of a training. Each is a pure function of the step, so a resumed run sees the same batches."""

    def batch(self, step: int) -> Any:
        """The batch of a step; called from threads."""

    def content(self) -> Mapping[str, Any]:
        """Everything that determines the batches, by name (see `resume_key`)."""


class SampledBatches:
    """Batches of a dataset's items.

    Without `weights`, every item comes once before any repeats. With them, each batch is drawn with
    replacement by weight.

    Args:
        dataset: items by index.
        batch_size: items per step.
        seed: of the order and the views.
        weights: one per item, or None.
        view: augments one item, using the random generator of its step.

    Raises:
        UserError: the dataset is empty.
        ValueError: the number of weights differs from the number of items.
    """

    def __init__(
        self,
        dataset: Dataset[Any] | Tensor,
        batch_size: int,
        seed: int,
        weights: Sequence[float] | None = None,
        view: View | None = None,
    ) -> None:
        self.size = len(dataset)  # type: ignore[arg-type]
        if self.size < 1:
            raise UserError("the training set is empty")
        if weights is not None and len(weights) != self.size:
            raise ValueError(f"{len(weights)} sampling weights for {self.size} training items")
        self.dataset, self.batch_size, self.seed, self.view = dataset, batch_size, seed, view
        self.weights = None if weights is None else torch.as_tensor(weights, dtype=torch.double)
        self._pass = lru_cache(maxsize=4)(self._shuffled)

    def batch(self, step: int) -> Any:
        """The items of a step, stacked."""
        items = [self.dataset[index] for index in self.numbers(step)]
        if self.view is not None:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) * 1_000_003)
            items = [self.view(item, generator) for item in items]
        return default_collate(items)

    def numbers(self, step: int) -> list[int]:
        """Indices of the items of a step."""
        if self.weights is not None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            drawn = torch.multinomial(self.weights, self.batch_size, replacement=True, generator=generator)
            return drawn.tolist()
        first = step * self.batch_size
        places = (divmod(place, self.size) for place in range(first, first + self.batch_size))
        return [self._pass(number)[offset] for number, offset in places]

    def _shuffled(self, number: int) -> list[int]:
        """The order of one pass over all items."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        return torch.randperm(self.size, generator=generator).tolist()

    def content(self) -> dict[str, Any]:
        """Items, sampling and seed."""
        items: Any = self.dataset
        if isinstance(items, TensorDataset):
            items = items.tensors
        sampling = {"batch_size": self.batch_size, "seed": self.seed, "weights": self.weights}
        return {"data": items, "sampling": sampling}


@runtime_checkable
class DrawnBatches(Batches, Protocol):
    """Batches that take more processor time than a GPU leaves one process: others can draw them."""

    def drawing(self) -> Callable[[int], Any]:
        """A function that draws the batch of a step on the CPU; it can be pickled."""

    def finish(self, drawn: Any) -> Any:
        """The batch of a step, from what `drawing()` returned for it."""


class Prefetcher:
    """Prepares batches while the device computes: beside a GPU with many threads or processes.

    Args:
        batches: `DrawnBatches` can be drawn in processes, others only in threads.
        cores: to prepare with beside a GPU, which trains; 0 where the same cores train.
    """

    def __init__(self, batches: Batches, cores: int = 0) -> None:
        self.batches = batches
        self.pool: Executor
        self.draw: Callable[[int], Any]
        self.finish: Callable[[Any], Any]
        if cores and isinstance(batches, DrawnBatches):
            self.draw, self.finish = batches.drawing(), batches.finish
            self.ahead = 2 * cores
            context = clean_processes(type(batches).__module__)
            self.pool = ProcessPoolExecutor(cores, context, begin_process)
        else:
            threads = max(AHEAD, min(cores, READERS))
            self.draw, self.finish, self.ahead = batches.batch, unchanged, threads
            self.pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def steps(self, first: int, count: int) -> Prefetched:
        """The batches of `count` steps from `first` on."""
        return Prefetched(self, first, count)


def clean_processes(module: str) -> BaseContext:
    """How to start processes: not as forks of this one, which has a GPU and threads, and could hang.

    Where the system can, they are forks of a server that has imported `module`: importing it in each process
    would take as long as many steps.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def begin_process() -> None:
    """Let a process that draws compute on one thread, and end with the training, even with a killed one."""
    torch.set_num_threads(1)
    training = parent_process()
    if training is not None:
        Thread(target=end_with, args=(training,), daemon=True).start()


def end_with(process: BaseProcess) -> None:
    """End this process as soon as another has ended."""
    process.join()
    os._exit(1)


def unchanged(value: Any) -> Any:
    """Return the value."""
    return value


class Prefetched:
    """Batches of `count` steps from `first` on; see `Prefetcher`."""

    def __init__(self, prefetcher: Prefetcher, first: int, count: int) -> None:
        self.prefetcher, self.first, self.count = prefetcher, first, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        source = self.prefetcher
        steps = iter(range(self.first, self.first + self.count))
        pending = deque(source.pool.submit(source.draw, step) for step in islice(steps, source.ahead))
        try:
            while pending:
                drawn = pending.popleft().result()
                following = next(steps, None)
                if following is not None:
                    pending.append(source.pool.submit(source.draw, following))
                yield source.finish(drawn)
        finally:
            for future in pending:
                future.cancel()
