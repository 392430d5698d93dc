"""The latest images that a service scored, kept as they arrived until operators have judged them."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path

FRAMES = "frames"  # folder in that of the log
NAME_LENGTH = 32
# How files of the kinds that the service reads begin
SUFFIXES = {
    b"\x89PNG": ".png",
    b"\xff\xd8": ".jpg",
    b"BM": ".bmp",
    b"II": ".tif",
    b"MM": ".tif",
}


class FrameStore:
    """Keeps the latest files in a folder; an older one goes when a newer one comes.

    Args:
        folder: what earlier services left there counts too.
        most: number of files to keep.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        folder.mkdir(parents=True, exist_ok=True)
        ages = sorted(
            (path.stat().st_mtime, path) for path in folder.iterdir() if path.suffix in SUFFIXES.values()
        )
        self._kept = OrderedDict.fromkeys(path for _, path in ages)
        self._lock = threading.Lock()

    def add(self, name: str, content: bytes) -> None:
        """Keep an image file under the id of its verdict; the same id again replaces it."""
        path = self.folder / (file_stem(name) + suffix_of(content))
        temporary = self.folder / f".{path.name}-{threading.get_ident()}"
        temporary.write_bytes(content)
        temporary.replace(path)
        with self._lock:
            self._kept[path] = None
            self._kept.move_to_end(path)
            old = [self._kept.popitem(last=False)[0] for _ in range(len(self._kept) - self.most)]
        for path in old:
            path.unlink(missing_ok=True)


def file_stem(name: str) -> str:
    """The stem of the file of an id, which may hold characters that no file name can."""
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:NAME_LENGTH]


def suffix_of(content: bytes) -> str:
    """The suffix of an image file by its first bytes."""
    return next((suffix for start, suffix in SUFFIXES.items() if content.startswith(start)), ".png")


def kept_frame(log: Path, name: str) -> Path | None:
    """The image file of an id in the folder of a service's log; None if it is not kept any more."""
    stem = log / FRAMES / file_stem(name)
    found = (stem.with_suffix(suffix) for suffix in sorted(set(SUFFIXES.values())))
    return next((path for path in found if path.is_file()), None)
