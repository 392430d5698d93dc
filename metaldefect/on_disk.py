"""Arrays in temporary files, for what grows with the number of images.

The kernel writes such pages out when memory runs short; ordinary memory it can only take by ending the
process. The files have no name and vanish with their arrays. They lie in `TMPDIR`, by default `/tmp`: where
that is itself in memory, set `TMPDIR` to a folder on a disk.
"""

from __future__ import annotations

import math
import os
import tempfile
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from metaldefect.errors import is_disk_full

Dtype = TypeVar("Dtype", bound=np.generic)
SMALLEST, LARGEST = 1024**2, 64 * 1024**2  # bytes per file of a `DiskStore`: each costs a descriptor
ALIGNMENT = 64


def zeros_on_disk(shape: tuple[int, ...], dtype: np.dtype[Dtype] | type[Dtype]) -> NDArray[Dtype]:
    """`np.zeros` in a temporary file; writable.

    Raises:
        OSError: the disk is full; the error names the folder and how much was wanted.

    Example:
        >>> zeros_on_disk((2, 3), np.float32).tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size:
        return np.zeros(shape, dtype)
    try:
        with tempfile.TemporaryFile() as file:
            reserve(file, size)
            return np.asarray(np.memmap(file, dtype, "w+", shape=shape))
    except OSError as error:
        if not is_disk_full(error) or error.errno is None:
            raise
        wanted = f"{error.strerror}, {size / 1e6:.1f} MB wanted for temporary files"
        raise OSError(error.errno, wanted, tempfile.tempdir) from error


def reserve(file: IO[Any], size: int) -> None:
    """Give a file its space on the disk, in bytes, before memory-mapped writes.

    Without it, a full disk ends the process with a bus error at some later write.

    Raises:
        OSError: the disk is full.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS
        os.posix_fallocate(file.fileno(), 0, size)


class DiskStore:
    """Keeps copies of many arrays of any shape and type in few temporary files.

    Example:
        >>> store = DiskStore()
        >>> [store.keep(np.full(3, number)).tolist() for number in (1, 2.5)]
        [[1, 1, 1], [2.5, 2.5, 2.5]]
    """

    def __init__(self) -> None:
        self._free: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._next = SMALLEST

    def keep(self, array: NDArray[Dtype]) -> NDArray[Dtype]:
        """A copy in a file, which lives as long as the returned array.

        Raises:
            OSError: the disk is full.
        """
        taken = -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        if taken > len(self._free):
            self._free = zeros_on_disk((max(taken, self._next),), np.uint8)
            self._next = min(2 * self._next, LARGEST)
        place, self._free = self._free[: array.nbytes], self._free[taken:]
        kept = place.view(array.dtype).reshape(array.shape)
        kept[...] = array
        return kept
