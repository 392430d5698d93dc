"""`metaldefect review`: the page, what it drops, and that nobody else can drop anything."""

from __future__ import annotations

import io
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from pycocotools.coco import COCO

from metaldefect.api import DrawSettings, InsertSettings, draw, drop_images, insert
from metaldefect.cli import run_app
from metaldefect.commands.review import ReviewServer, kept_images, pictures_of, tile_of
from metaldefect.drawing_cli import app, report
from metaldefect.errors import UserError
from metaldefect.images import write_png
from metaldefect.procedural.images import generate_normal_image


def make(root: Path, format_name: str = "coco") -> Path:
    for number in range(4):
        write_png(root / f"photos/{number}.png", generate_normal_image(number, 150))
    photos, out = root / "photos", root / "out"
    settings = InsertSettings(
        images=photos, label=("scratch",), method="procedural", output=out, format=format_name
    )
    assert insert(settings).images == 4
    return root / "out"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReviewServer]:
    with ReviewServer(make(tmp_path), 0) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def post(server: ReviewServer, **fields: object) -> str:
    form = urllib.parse.urlencode(fields, doseq=True).encode()
    with urllib.request.urlopen(f"{server.address}drop", form, timeout=20) as answer:
        return answer.read().decode()


def get(address: str, **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as answer:
        return answer.read()


def test_what_is_ticked_disappears_from_page_disk_and_annotations(server: ReviewServer) -> None:
    page = get(server.address).decode()
    assert page.count('type="checkbox"') == 4
    first, third = (re.findall(r'alt="([^"]+)"', page)[k] for k in (0, 2))
    with Image.open(io.BytesIO(get(f"{server.address}picture/0"))) as picture:
        assert picture.size == (640, 320)
    after = post(server, token=server.token, drop=[0, 2])
    assert after.count('type="checkbox"') == 2
    assert first not in after
    folder = server.folder
    assert not (folder / first).exists()
    assert len(list((folder / "masks").iterdir())) == 2
    table = pd.read_parquet(folder / "manifest.parquet")
    assert set(table.loc[table["dropped"], "image"]) == {first, third}
    assert len(COCO(str(folder / "annotations/instances.json")).getImgIds()) == 2
    # The same page, still open in another window: what is gone stays gone, and nothing else goes
    post(server, token=server.token, drop=[0, 2])
    assert len(kept_images(folder)) == 2


def test_only_the_form_of_this_page_drops_and_only_this_machine_sees_it(server: ReviewServer) -> None:
    for fields in ({"drop": [0]}, {"token": "guessed", "drop": [0]}):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            post(server, **fields)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(server.address, Host="elsewhere.example:80")
    for path in ("../manifest.csv", "picture/99", "picture/-1", "picture/../../photos/0.png"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(server.address + path)
    assert len(kept_images(server.folder)) == 4
    assert server.server_address[0] == "127.0.0.1"


def test_a_dropped_image_does_not_come_back(tmp_path: Path) -> None:
    folder = make(tmp_path, "yolo")
    name = pd.read_parquet(folder / "manifest.parquet")["image"].iloc[1]
    assert drop_images(folder, [name]) == 1
    assert not (folder / "labels" / f"{Path(name).stem}.txt").exists()
    assert name not in (folder / "train.txt").read_text() + (folder / "val.txt").read_text()
    settings = InsertSettings(
        images=tmp_path / "photos", label=("scratch",), method="procedural", output=folder, format="yolo"
    )
    assert insert(settings).images == 3
    assert not (folder / name).exists()
    with pytest.raises(UserError, match="the manifest lists them all"):
        drop_images(folder, [name])


def test_drawn_images_are_reviewed_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = DrawSettings(label=("patches",), output=tmp_path, count=2, method="procedural", size=64)
    draw(settings)
    assert pd.read_parquet(tmp_path / "manifest.parquet")["visible"].isna().all(), "nothing measured it"
    assert tile_of(kept_images(tmp_path)[0])["text"] == "patches, procedural"
    assert pictures_of(tmp_path, kept_images(tmp_path)[0])[:2] == b"\xff\xd8"
    with pytest.raises(SystemExit):
        run_app(app, ["review", str(tmp_path), "--drop", "images/patches/patches_00001.png"])
    assert draw(settings)[:2] == (1, 1)
    report(draw(settings), tmp_path)
    assert capsys.readouterr().out == (
        f"1 image dropped: {tmp_path}/manifest.csv\n1 image with 1 defect: {tmp_path}/manifest.csv\n"
    )
    drop_images(tmp_path, ["images/patches/patches_00000.png"])
    report(draw(settings), tmp_path)
    assert capsys.readouterr().out == f"0 images with 0 defects: {tmp_path}/manifest.csv\n"
    with pytest.raises(UserError, match="was not made by"):
        kept_images(tmp_path / "images")
