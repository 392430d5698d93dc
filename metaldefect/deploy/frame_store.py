"""The latest images that a service scored, kept as they arrived until operators have judged them."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path

FRAMES = "frames"  # folder in that of the log
NAME_LENGTH = 32
MOST_BYTES = 5_000_000_000
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
        most_bytes: that they may take together; the newest file stays, whatever it takes.
    """

    def __init__(self, folder: Path, most: int, most_bytes: int = MOST_BYTES) -> None:
        self.folder, self.most, self.most_bytes = folder, most, most_bytes
        folder.mkdir(parents=True, exist_ok=True)
        for half in folder.glob(".*"):  # a service that was killed left it
            half.unlink(missing_ok=True)
        found = {path: path.stat() for path in folder.iterdir() if path.suffix in SUFFIXES.values()}
        ordered = sorted(found, key=lambda path: found[path].st_mtime)
        self._kept: OrderedDict[Path, int] = OrderedDict((path, found[path].st_size) for path in ordered)
        self._bytes = sum(self._kept.values())
        self._lock = threading.Lock()

    def add(self, name: str, content: bytes) -> None:
        """Keep an image file under the id of its verdict; the same id again replaces it."""
        path = self.folder / (file_stem(name) + suffix_of(content))
        temporary = self.folder / f".{path.name}-{threading.get_ident()}"
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError:  # on a full disk, half a file would take the last bytes from the log
            temporary.unlink(missing_ok=True)
            raise
        old = []
        with self._lock:
            self._bytes += len(content) - self._kept.pop(path, 0)
            for other in {path.with_suffix(suffix) for suffix in SUFFIXES.values()} & self._kept.keys():
                self._bytes -= self._kept.pop(other)  # the same id, sent in another format
                old.append(other)
            self._kept[path] = len(content)
            while len(self._kept) > 1 and (len(self._kept) > self.most or self._bytes > self.most_bytes):
                gone, size = self._kept.popitem(last=False)
                self._bytes -= size
                old.append(gone)
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
