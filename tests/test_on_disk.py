"""Arrays in temporary files."""

from __future__ import annotations

import doctest
import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from metaldefect import on_disk
from metaldefect.errors import exit_on_user_error
from metaldefect.on_disk import DiskStore, zeros_on_disk


def test_examples_print_what_they_say() -> None:
    assert doctest.testmod(on_disk) == doctest.TestResults(failed=0, attempted=3)


def test_arrays_of_all_kinds_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disk, "SMALLEST", 256)
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 256, (5, 7), np.uint8), rng.random((3, 4, 5)), rng.random(9) > 0.5,
        rng.random((40, 40)).astype(np.float16), np.empty((0, 4), np.float32), np.array(3.0),
    ]  # fmt: skip
    store = DiskStore()
    kept = [store.keep(array) for array in arrays]
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.fill(0)
    del store
    for found, expected in zip(kept, copies, strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)


def test_files_have_no_name_and_lie_where_temporary_files_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match="missing"):
        zeros_on_disk((4,), np.uint8)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = zeros_on_disk((4, 2), np.int16)
    found[1] = 3
    assert found.sum() == 6
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_before_anything_is_written() -> None:
    with pytest.raises(OSError, match=r"No space left|File too large"):
        zeros_on_disk((2**52,), np.uint8)


def test_the_error_of_a_full_disk_names_its_folder_and_what_was_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SystemExit) as end, exit_on_user_error("evaluate"):
        DiskStore().keep(np.zeros(1_250_000))
    assert end.value.code == (
        f"evaluate: the disk of {tmp_path} is full (No space left on device, 10.0 MB wanted for temporary"
        " files): free some space, or set TMPDIR to a folder on another disk"
    )
