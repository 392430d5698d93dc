"""The endpoints for programs, called as docs/demo.md shows."""

from __future__ import annotations

import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from scipy import ndimage

from app.studio import Mask, Settings, Studio
from benchmarks.demo import Visitor, load_test
from metaldefect.deploy.runtime import Detector
from metaldefect.image_files import Levels
from metaldefect.images import U8
from tests.app.conftest import metal

DOCS = Path(__file__).parents[2] / "docs/demo.md"


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("files")
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    pictures = {
        "image": metal(0),
        "mask": mask,
        "nothing": np.zeros_like(mask),
        "everything": np.full_like(mask, 255),
        "other size": mask[:32],
    }
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    deep = np.round(metal(0) * (4095 / 255)).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    (folder / "text.png").write_text("no image")
    return {path.stem: handle_file(path) for path in folder.iterdir()}


def inpaint(client: Client, files: dict[str, Any], **more: Any) -> Any:
    given = {"image": files["image"], "mask": files["mask"], "label": "patches", "seed": "1", "steps": 2}
    return client.predict(**given | more, api_name="/inpaint_image")


def test_inpaint_image_returns_a_png_and_an_exact_mask(client: Client, files: dict[str, Any]) -> None:
    result = inpaint(client, files)
    assert {"image", "mask", "visible", "score", "threshold", "is_defective", "remarks"} == set(result)
    image, mask = (Image.open(result[name]) for name in ("image", "mask"))
    assert (image.format, mask.format, image.size) == ("PNG", "PNG", (64, 64))
    assert set(np.unique(mask)) <= {0, 255}
    brush = np.zeros((64, 64), bool)
    brush[20:40, 20:40] = True
    far = ndimage.distance_transform_edt(~brush) > 8
    assert np.array_equal(np.asarray(image)[far], metal(0)[far])
    assert not np.array_equal(np.asarray(image), metal(0))
    assert result["visible"] == bool(np.asarray(mask).any())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": ""}, "seed must be a whole number"),
        ({"seed": "abc"}, "seed must be a whole number"),
        ({"seed": "9" * 5000}, "seed must be a whole number"),
        ({"steps": None}, "steps must be a number, not nothing"),
        ({"guidance": None}, "guidance must be a number, not nothing"),
        ({"temperature": None}, "temperature must be a number, not nothing"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"label": "dent"}, "unknown class 'dent'"),
        ({"temperature": -1}, "temperature"),
        ({"mask": "nothing"}, "mask is empty"),
        ({"mask": "everything"}, "covers the whole image"),
        ({"mask": "other size"}, "64"),
        ({"mask": None}, "A mask is needed"),
        ({"image": None}, "Choose or upload an image"),
        ({"image": "text"}, "text.png"),
    ],
)
def test_every_error_has_its_reason(
    client: Client, files: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    given = {name: files.get(value, value) for name, value in change.items()}
    with pytest.raises(AppError, match=reason):
        inpaint(client, files, **given)


def test_a_program_is_told_when_nothing_visible_was_drawn(
    client: Client, files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw_nothing(studio: Studio, image: U8, mask: Mask, label: str, settings: Settings) -> U8:
        return image

    monkeypatch.setattr("app.api.draw", draw_nothing)
    result = inpaint(client, files)
    assert result["visible"] is False
    assert result["remarks"][-1] == "Nothing visible was drawn: the mask is empty."
    assert not np.asarray(Image.open(result["mask"])).any()


def test_the_example_of_the_docs_calls_every_endpoint(
    client: Client, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    called = set(re.findall(r'api_name="(/\w+)"', example))
    assert called == set(client.view_api(print_info=False, return_format="dict")["named_endpoints"])
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    Image.fromarray(metal(0)).save(tmp_path / "good.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example.replace("http://127.0.0.1:7860", address), str(DOCS), "exec"), names)
    found, decoded, shown = (names[name] for name in ("found", "decoded", "shown"))
    for file in (found["image"], found["mask"], decoded["image"], shown["image"]):
        assert Image.open(file).size == (64, 64)
    assert len(names["encoded"]["tokens"]) == 8


def test_files_with_more_than_8_bits_are_read_as_the_detector_reads_them(
    client: Client, files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AppError, match="more than 8 bits"):
        client.predict(image=files["deep"], api_name="/encode_to_tokens")
    monkeypatch.setattr(Detector, "levels", Levels.of_bits(12))
    known, deep = (
        client.predict(image=files[name], api_name="/encode_to_tokens") for name in ("image", "deep")
    )
    assert deep == known
    drawn = [inpaint(client, files, image=files[name])["image"] for name in ("image", "deep")]
    assert np.array_equal(*(np.asarray(Image.open(path)) for path in drawn))


def test_tokens_and_masks_have_endpoints(client: Client, files: dict[str, Any]) -> None:
    encoded = client.predict(image=files["image"], api_name="/encode_to_tokens")
    assert (len(encoded["tokens"]), encoded["vocabulary"]) == (8, 20)
    decoded = client.predict(tokens=encoded["tokens"], light=files["image"], api_name="/decode_from_tokens")
    assert Image.open(decoded["image"]).size == (64, 64)
    for wrong in ([["a"]], [[2**70]], None):
        with pytest.raises(AppError, match="rows of whole numbers"):
            client.predict(tokens=wrong, light=files["image"], api_name="/decode_from_tokens")
    shown = client.predict(image=files["image"], mask=files["mask"], api_name="/visualize_mask_on_image")
    red, green, _ = np.asarray(Image.open(shown["image"]))[30, 30]
    assert red > green + 50


def test_no_request_of_two_users_is_lost(address: str, files: dict[str, Any]) -> None:
    def ask(number: int) -> Any:
        return inpaint(Client(address, verbose=False), files, seed=str(number))["image"]

    with ThreadPoolExecutor(4) as pool:
        results = [np.asarray(Image.open(path)).tobytes() for path in pool.map(ask, [1, 2, 1, 2])]
    assert results[0] == results[2]
    assert results[1] == results[3]
    assert results[0] != results[1]


def test_mixed_requests_of_four_users_are_all_answered(address: str, tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    Image.fromarray(metal(0)).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")

    def new_user() -> Visitor:
        return Visitor(address, tmp_path / "image.png", tmp_path / "mask.png", "patches", steps=2)

    figures, details = load_test(new_user, os.getpid(), 12, 4)
    assert (figures["requests"], figures["lost"], details["errors"]) == (12, 0, [])

    def lost_user() -> Visitor:
        visitor = new_user()
        visitor.label = "dent"  # a class that the models do not know: one in four requests is refused
        return visitor

    figures, details = load_test(lost_user, os.getpid(), 4, 1)
    assert figures["lost"] == 1
    assert "unknown class 'dent'" in details["errors"][0]


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """The address of a picture on another server, and what that server was asked for."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/x.png", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("inpaint_image", {"image": "HERE", "mask": "mask", "label": "patches"}),
        ("inpaint_image", {"image": "image", "mask": "HERE", "label": "patches"}),
        ("encode_to_tokens", {"image": "HERE"}),
        ("decode_from_tokens", {"tokens": [[0]], "light": "HERE"}),
        ("decode_from_tokens", {"tokens": "HERE", "light": "image"}),
        ("visualize_mask_on_image", {"image": "image", "mask": "HERE"}),
    ],
)
def test_the_server_fetches_no_address(
    client: Client,
    files: dict[str, Any],
    elsewhere: tuple[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    given: dict[str, Any],
) -> None:
    address, asked = elsewhere
    # Gradio itself refuses addresses of its own network: this one stands for a public one
    monkeypatch.setattr("gradio.processing_utils.PUBLIC_HOSTNAME_WHITELIST", ["127.0.0.1"])
    known = files | {"HERE": handle_file(address)}
    sent = {key: known.get(value, value) if isinstance(value, str) else value for key, value in given.items()}
    with pytest.raises(AppError, match="Send the file itself, not its address"):
        client.predict(**sent, api_name=f"/{name}")
    assert asked == []


@pytest.mark.parametrize("path", ["/etc/passwd", "params.yaml", "{root}/params.yaml"])
def test_no_file_of_the_server_can_be_read(address: str, demo_root: Path, path: str) -> None:
    target = path.format(root=demo_root)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{address}/gradio_api/file={target}")
    assert refused.value.code in (403, 404)
