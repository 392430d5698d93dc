"""Identify by content what produced a saved state, and decide whether training may resume from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from metaldefect.artifacts import atomic_directory, read_json, sha256_file, write_json
from metaldefect.config import Config


@runtime_checkable
class HasDigest(Protocol):
    """Content that computes its own digest, for example images in files."""

    def digest(self) -> str:
        """SHA-256 of the content, hexadecimal."""


def resume_key(parts: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each part's content: identifies everything that is kept for resuming.

    Args:
        parts: what determines the state, under names that users know (`settings`, `images`, ...):
            numbers, strings, settings, dataclasses, mappings, sequences, arrays, tensors, modules (their
            weights), files and folders (their bytes and names), and objects with a method `digest`.

    Raises:
        TypeError: a part has another type.
    """
    return {name: content_digest(part) for name, part in parts.items()}


def content_digest(part: Any) -> str:
    """SHA-256 of one part's content; see `resume_key`."""
    digest = hashlib.sha256()
    _feed(digest.update, part)
    return digest.hexdigest()


def _feed(update: Callable[[bytes | memoryview], object], part: Any) -> None:
    if isinstance(part, HasDigest):
        update(part.digest().encode())
    elif part is None or isinstance(part, bool | int | float | str):
        update(json.dumps(part).encode() + b";")
    elif isinstance(part, Path):
        _feed(update, _digests_below(part))
    elif isinstance(part, torch.Tensor):
        raw = part.detach().cpu().contiguous()
        update(f"{raw.dtype}{list(raw.shape)};".encode())
        update(raw.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(part, np.ndarray):
        update(f"{part.dtype}{list(part.shape)};".encode())
        update(np.ascontiguousarray(part).data)
    elif isinstance(part, torch.nn.Module):
        _feed(update, part.state_dict())
    elif is_dataclass(part) and not isinstance(part, type):
        _feed(update, asdict(part))
    elif isinstance(part, Config):
        _feed(update, part.model_dump())
    elif isinstance(part, Mapping):
        for name in sorted(part):
            update(f"{name}=".encode())
            _feed(update, part[name])
    elif isinstance(part, Sequence):
        update(f"[{len(part)}]".encode())
        for item in part:
            _feed(update, item)
    else:
        raise TypeError(f"no rule for the content of a {type(part).__name__}")


def _digests_below(path: Path) -> dict[str, str]:
    """SHA-256 of a file, or of each file below a folder, by relative name."""
    if path.is_file():
        return {"": sha256_file(path)}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): sha256_file(file) for file in files}


def differing(saved: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Sorted names of the parts in which two keys differ."""
    return sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))


def state_to_take_up(path: Path, key: Mapping[str, str]) -> dict[str, Any] | None:
    """Load the checkpoint at `path` if it has this key; if it has another, print why and return None."""
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    changed = differing(state.get("resume_key", {}), key)
    if changed:
        print(
            f"training starts anew: since {path} was written, these changed: {', '.join(changed)}",
            flush=True,
        )
        return None
    print(f"going on from step {state['step']} in {path}", flush=True)
    return state


def kept_folder(folder: Path, parts: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """Return `folder`, filled by `make`; if `parts` changed since, make it again and print what changed."""
    key, record = resume_key(parts), folder.with_name(f"{folder.name}.key.json")
    if folder.is_dir() and record.is_file():
        changed = differing(read_json(record), key)
        if not changed:
            return folder
        print(f"{folder} is made anew: these changed: {', '.join(changed)}", flush=True)
    record.unlink(missing_ok=True)
    with atomic_directory(folder) as partial:
        make(partial)
    write_json(record, key)
    return folder
