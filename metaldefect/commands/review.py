"""`metaldefect review`: look at everything that `draw` or `insert` wrote, and drop what does not convince.

The page is served to this machine only. A random token in its form keeps other pages from dropping images.
"""

from __future__ import annotations

import html
import io
import secrets
import threading
from collections.abc import Collection, Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image
from scipy import ndimage

from metaldefect.artifacts import read_json
from metaldefect.commands.insert import write_annotations
from metaldefect.commands.manifest import SETTINGS, OutputImage, keep_record, read_records, write_manifest
from metaldefect.errors import UserError
from metaldefect.images import U8, to_u8
from metaldefect.synthesis.photographs import Photograph, read_photograph
from metaldefect.synthesis.placement import bounding_box, centre_of, extent_of, square_around
from metaldefect.synthesis.real_defects import read_mask

HOST = "127.0.0.1"
WHOLE, CLOSE = 320, 320  # sides of the two pictures of an image, pixels
SMALLEST_CLOSE = 96  # pixels of the image that the close picture shows at least
LARGEST_FORM = 2**20  # bytes
BESIDE = ("labels/{}.txt", "Annotations/{}.xml", "SegmentationClass/{}.png")  # annotations of one image


def kept_images(folder: Path) -> list[OutputImage]:
    """The images that are there and were not dropped, sorted by key."""
    return [image for image in read_records(folder) if image_of(image) is not None]


def image_of(image: OutputImage) -> str | None:
    """Path of an image in its folder; None if nothing was written or it was dropped."""
    rows = [row for row in image.rows if row["image"] and not row["dropped"]]
    return str(rows[0]["image"]) if rows else None


def drop_images(folder: Path, names: Collection[str]) -> int:
    """Delete images with their masks and annotations; the manifest keeps their rows as dropped.

    A later run of `insert` or `draw` into the folder does not bring them back.

    Args:
        folder: output of `draw` or `insert`.
        names: paths of images inside it, as the manifest lists them.

    Returns:
        How many were dropped.

    Raises:
        UserError: a name is not an image of the folder.
    """
    images = {image_of(image): image for image in kept_images(folder)}
    if unknown := sorted(set(names) - images.keys()):
        raise UserError(f"{folder} holds no image {unknown[0]!r}: the manifest lists them all")
    for name in names:
        image = images[name]
        rows = tuple({**row, "dropped": True} for row in image.rows)
        keep_record(folder, OutputImage(key=image.key, rows=rows))
        paths = [name, image.rows[0]["mask"], *(beside.format(Path(name).stem) for beside in BESIDE)]
        for path in filter(None, paths):
            (folder / path).unlink(missing_ok=True)
    every = list(read_records(folder))
    settings = read_json(folder / SETTINGS)["settings"]
    if "format" in settings:
        write_annotations(folder, settings["format"], every)
    else:
        write_manifest(folder, [row for image in every for row in image.rows])
    return len(names)


def pictures_of(folder: Path, image: OutputImage) -> bytes:
    """A JPEG: the whole image with its mask outlined, and beside it the largest defect close up."""
    name = image_of(image)
    assert name is not None
    photograph = read_photograph(folder / name)
    shown = in_colour(photograph)
    whole = fit(shown, WHOLE)
    mask_name = image.rows[0]["mask"]
    if mask_name:
        mask = read_mask(folder / mask_name, photograph.shape)
        box = bounding_box(largest_part(mask))
        side = max(SMALLEST_CLOSE, 2 * extent_of(box))
        close = fit(shown[square_around(centre_of(box), side, photograph.shape)], CLOSE)
        whole = np.concatenate([fit(outlined(shown, mask), WHOLE), close], axis=1)
    stream = io.BytesIO()
    Image.fromarray(whole).save(stream, format="JPEG", quality=90)
    return stream.getvalue()


def in_colour(photograph: Photograph) -> U8:
    """The photograph as `uint8 [H, W, 3]`."""
    levels = to_u8(photograph.levels((slice(None), slice(None))))
    return levels if levels.shape[2] == 3 else levels.repeat(3, axis=2)


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask."""
    parts, count = ndimage.label(mask, np.ones((3, 3), int))
    if count < 2:
        return mask
    return np.asarray(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])))


def outlined(image: U8, mask: np.ndarray) -> U8:
    """A copy with a red line around the mask, two pixels outside it and as thick as the picture needs."""
    thickness = max(1, round(max(mask.shape) / WHOLE))
    near = ndimage.binary_dilation(mask, iterations=2)
    line = ndimage.binary_dilation(near, iterations=thickness) & ~near
    copy = image.copy()
    copy[line] = (230, 40, 40)
    return copy


def fit(image: U8, side: int) -> U8:
    """An image in the middle of a dark square of `side` pixels."""
    picture = Image.fromarray(image)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    square = Image.new("RGB", (side, side), (24, 24, 24))
    square.paste(
        picture.resize(size, Image.Resampling.LANCZOS), ((side - size[0]) // 2, (side - size[1]) // 2)
    )
    return np.asarray(square)


class ReviewServer(ThreadingHTTPServer):
    """Serves the contact sheet of a folder to this machine.

    Args:
        folder: output of `draw` or `insert`.
        port: to listen on; 0 takes a free one.

    Raises:
        UserError: the folder was not made by `draw` or `insert`, or the port is taken.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.token = secrets.token_urlsafe(24)
        self.images = tuple(kept_images(folder))  # fixed: their numbers are on pages that may be open
        self.dropped: set[int] = set()
        self.lock = threading.Lock()
        try:
            super().__init__((HOST, port), ReviewHandler)
        except OSError as error:
            reason = f"cannot listen on port {port}: {error.strerror}; choose another --port"
            raise UserError(reason) from error

    @property
    def address(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def page(self) -> str:
        """The contact sheet."""
        environment = Environment(
            loader=PackageLoader("metaldefect.commands", "."), autoescape=select_autoescape(default=True)
        )
        return environment.get_template("review.html.j2").render(
            folder=str(self.folder), token=self.token, tiles=self.tiles()
        )

    def tiles(self) -> dict[int, dict[str, str]]:
        """What the page shows of each image that is left, by number."""
        left = (number for number in range(len(self.images)) if number not in self.dropped)
        return {number: tile_of(self.images[number]) for number in left}

    def drop(self, numbers: Iterable[int]) -> None:
        """Drop images by their number on the page; those that are gone already stay gone."""
        with self.lock:
            chosen = {number for number in numbers if number < len(self.images)} - self.dropped
            names = [image_of(self.images[number]) for number in chosen]
            drop_images(self.folder, [name for name in names if name is not None])
            self.dropped |= chosen


def tile_of(image: OutputImage) -> dict[str, str]:
    """What the page says about an image."""
    seen = [row for row in image.rows if row["visible"] is not False]
    contrast = [row["contrast"] for row in seen if row["contrast"] is not None]
    parts = [seen[0]["label"], seen[0]["method"]]
    if contrast:
        limits = dict.fromkeys(f"{level:.0f}" for level in (min(contrast), max(contrast)))
        parts.append(f"contrast {' to '.join(limits)}")
    sources = sorted({Path(row["source"]).name for row in seen if row["source"]})
    return {"name": image_of(image) or "", "text": ", ".join(parts), "source": ", ".join(sources)}


class ReviewHandler(BaseHTTPRequestHandler):
    """GET / is the page, GET /picture/<number> a picture, POST /drop drops what is ticked."""

    server: ReviewServer

    def do_GET(self) -> None:
        if not self._is_local():
            return
        path = self.path
        number = path.removeprefix("/picture/")
        if path == "/":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page().encode())
        elif number != path and number.isdecimal() and int(number) in self.server.tiles():
            picture = pictures_of(self.server.folder, self.server.images[int(number)])
            self._answer(HTTPStatus.OK, "image/jpeg", picture)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if not self._is_local():
            return
        if self.path != "/drop" or length > LARGEST_FORM:
            self._answer(HTTPStatus.BAD_REQUEST, "text/plain", b"bad request")
            return
        form = parse_qs(self.rfile.read(length).decode("ascii", "replace"))
        if not secrets.compare_digest(form.get("token", [""])[0], self.server.token):
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"not from this review: reload the page")
            return
        self.server.drop(int(value) for value in form.get("drop", []) if value.isdecimal())
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", "/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _is_local(self) -> bool:
        """Whether the browser asked for this address, not for a foreign name that leads here."""
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        if host in (HOST, "localhost"):
            return True
        self._answer(HTTPStatus.FORBIDDEN, "text/plain", html.escape(f"not {host}").encode())
        return False

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: every picture would be a line."""
