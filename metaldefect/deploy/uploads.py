"""Uploads in memory, where readers of files find them: a full disk must not stop the line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from starlette.formparsers import MultiPartParser

from metaldefect.image_files import TIFF_MAGIC

SHARED_MEMORY = "/dev/shm"  # of Linux
Place = Callable[[], AbstractContextManager[str]]


class FormInMemory(MultiPartParser):
    """Starlette's parser of forms, but files above 1 MB stay in memory too."""

    spool_max_size = 0  # to SpooledTemporaryFile, no limit


@contextmanager
def open_upload(body: bytes) -> Iterator[str]:
    """Yield a path that reads as these bytes, gone at the end of the block.

    It leads into memory where the system can (Linux's memfd), else to a temporary file.

    Raises:
        OSError: neither takes the bytes.
    """
    with ExitStack() as files:
        yield write_upload(body, files)


def write_upload(body: bytes, files: ExitStack) -> str:
    """Write the bytes to the first place that takes them; return its path, which `files` closes."""
    memory: list[Place] = [memory_file] if hasattr(os, "memfd_create") else []
    named: list[Place] = [partial(named_file, SHARED_MEMORY), partial(named_file, None)]
    # tifffile, which reads 16-bit colour, resolves links, and that of a memfd leads nowhere
    places = [*named, *memory] if body.startswith(TIFF_MAGIC) else [*memory, *named]
    for place in places[:-1]:
        with suppress(OSError):
            return fill(body, place(), files)
    return fill(body, places[-1](), files)


def fill(body: bytes, file: AbstractContextManager[str], files: ExitStack) -> str:
    """Enter a file's context, fill it and return its path."""
    path = files.enter_context(file)
    Path(path).write_bytes(body)
    return path


@contextmanager
def memory_file() -> Iterator[str]:
    """Yield the path of an empty file without a name, in memory."""
    descriptor = os.memfd_create("upload")
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


@contextmanager
def named_file(folder: str | None) -> Iterator[str]:
    """Yield the path of an empty temporary file in a folder; None: where `tempfile` puts it."""
    with tempfile.NamedTemporaryFile(suffix=".image", dir=folder) as file:
        yield file.name
