"""The C++ program gives the scores and decisions that Python gives."""

from __future__ import annotations

import csv
import os
import select
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import openvino.opset13 as ops
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmarks.agreement import measure
from metaldefect.artifacts import read_json, write_json
from metaldefect.deploy.bundle import PRECISIONS, hashes, read_metadata
from metaldefect.deploy.runtime import Detector
from metaldefect.deploy.signature import sign
from metaldefect.errors import RejectedFileError
from metaldefect.image_files import EXIF_ORIENTATION, read_pixels
from tests.conftest import may_skip
from tests.deploy.bad_inputs import CASES, Case, Line, write_good
from tests.deploy.conftest import DEEP_LEVELS
from tests.deploy.keys import key_files
from tests.ingest.test_hostile_files import HOSTILE
from tests.slim_detector import SIZE, noise

SOURCE = Path(__file__).parents[2] / "deploy/cpp"
FIXTURES = {8: ("exported", "images"), 16: ("deep", "deep_images")}
DARK = 10
HEADERS = ("stb/stb_image.h", "nlohmann/json.hpp", "openssl/evp.h")
MISSING = [name for name in ("cmake", "g++") if shutil.which(name) is None] + [
    name for name in HEADERS if not (Path("/usr/include") / name).is_file()
]


pytestmark = pytest.mark.skipif(
    may_skip(MISSING, os.environ), reason=f"needed to build C++ and not here: {MISSING}"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built program."""
    assert not MISSING, f"needed to build C++ and not here: {MISSING}"
    build = tmp_path_factory.mktemp("build")
    package = Path(openvino.__file__).parent
    configure = ["cmake", "-S", str(SOURCE), "-B", str(build), "-DCMAKE_BUILD_TYPE=Debug"]
    make = ["cmake", "--build", str(build), "--target", "detect", "compare_calls"]
    for command in ([*configure, f"-DOpenVINO_DIR={package / 'cmake'}"], make):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "detect"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of assorted sizes, grey and colour, faint and strong."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths = []
    for index in range(200):
        height, width = (int(side) for side in rng.integers(40, 260, 2))
        shape = (height, width) if index % 3 else (height, width, 3)
        pixels = rng.integers(0, 40 + index, shape).astype(np.uint8)
        paths.append(folder / f"{index:03d}.png")
        Image.fromarray(pixels).save(paths[-1], compress_level=0)
    return paths


@pytest.fixture(scope="module")
def deep_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images for the detector of 16-bit frames: 16-bit grey within its levels, 8-bit grey and colour."""
    folder, rng = tmp_path_factory.mktemp("deep_images"), np.random.default_rng(1)
    paths = []
    for index in range(60):
        height, width = (int(side) for side in rng.integers(40, 260, 2))
        span = 40 + 3 * index
        if index % 3 == 0:
            low, step = int(DEEP_LEVELS.low), (DEEP_LEVELS.high - DEEP_LEVELS.low) / 255
            pixels = rng.integers(low, low + int(span * step), (height, width)).astype(np.uint16)
        else:
            shape = (height, width) if index % 3 == 1 else (height, width, 3)
            pixels = rng.integers(0, span, shape).astype(np.uint8)
        paths.append(folder / f"{index:03d}.png")
        Image.fromarray(pixels).save(paths[-1], compress_level=0)
    return paths


def run(program: Path, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, cwd=cwd)


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
    return list(csv.DictReader(done.stdout.splitlines()))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bits", [8, 16])
def test_scores_and_decisions_are_pythons(
    program: Path, request: pytest.FixtureRequest, bits: int, precision: str
) -> None:
    bundle, images = (request.getfixturevalue(name) for name in FIXTURES[bits])
    metadata = read_metadata(bundle)
    assert metadata.input.type == f"u{bits}"
    paths = [*(bundle / "golden" / item.file for item in metadata.golden), *images]
    assert {np.asarray(Image.open(path)).dtype.itemsize * 8 for path in paths} == {8, bits}
    done = run(program, bundle, "--precision", precision, "--throughput", *paths)
    assert done.returncode == 3, done.stderr
    detector = Detector.load(bundle, precision)
    expected = [detector.predict(np.asarray(Image.open(path))) for path in paths]
    found = rows(done)
    assert [row["image"] for row in found] == [str(path) for path in paths]
    assert [row["is_anomalous"] == "True" for row in found] == [one.is_anomalous for one in expected]
    assert {one.is_anomalous for one in expected} == {True, False}
    tolerance = 1e-4 if precision == "fp32" else 1e-2
    assert [float(row["score"]) for row in found] == pytest.approx(
        [one.score for one in expected], abs=tolerance
    )


@pytest.mark.parametrize("level", [255, 4352])
@pytest.mark.parametrize("tiles", [(), ("--tiles", "40")])
def test_levels_beyond_the_range_of_a_16_bit_detector_are_refused(
    program: Path, deep: Path, tmp_path: Path, level: int, tiles: tuple[str, ...]
) -> None:
    pixels = np.full((150, 200), 300, np.uint16)
    Image.fromarray(pixels).save(tmp_path / "good.png")
    pixels[120, 180] = level
    Image.fromarray(pixels).save(tmp_path / "bad.png")
    with pytest.raises(RejectedFileError, match="beyond this detector's range"):
        Detector.load(deep, "fp32", self_test=False).predict(pixels)
    done = run(program, deep, "--precision", "fp32", *tiles, tmp_path / "bad.png", tmp_path / "good.png")
    assert done.stderr == (
        f"detect: {tmp_path}/bad.png: level {level} is beyond this detector's range 256 to 4351: the camera's"
        " settings differ from those of the training images\n"
    )
    assert [row["image"] for row in rows(done)] == [str(tmp_path / "good.png")]


def test_8_bit_images_are_refused_where_16_bit_levels_are_fewer(
    program: Path, deep: Path, images: list[Path], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(deep, tmp_path / "bundle"))
    content = read_json(bundle / "metadata.json")
    content["input"]["levels"] = {"low": 300.0, "high": 500.0, "clip": True}
    shallow = [
        item for item in content["golden"] if Image.open(bundle / "golden" / item["file"]).mode != "I;16"
    ]
    content["golden"] = [item for item in content["golden"] if item not in shallow]
    write_json(bundle / "metadata.json", content)
    detector = Detector.load(bundle, "fp32")
    with pytest.raises(RejectedFileError, match="8-bit image"):
        detector.predict(np.asarray(Image.open(images[1])))
    done = run(program, bundle, "--precision", "fp32", images[1])
    assert f"{images[1]}: 8-bit image: this detector tells fewer levels apart" in done.stderr
    assert rows(done) == []


def test_a_batch_and_later_answers_are_those_of_single_images(
    program: Path, exported: Path, images: list[Path]
) -> None:
    some = images[::8]
    done = run(program.with_name("compare_calls"), exported, *some)
    assert done.returncode == 0, done.stderr
    detector = Detector.load(exported, "fp32", self_test=False)
    expected = [detector.predict(np.asarray(Image.open(path))).score for path in some]
    found = [[float(score) for score in line.split(",")] for line in done.stdout.splitlines()]
    for scores in zip(*found, strict=True):
        assert list(scores) == pytest.approx(expected, abs=1e-4)
    assert len(set(expected)) == len(some), "an image in another's place would be seen"


@pytest.mark.parametrize("bits", [8, 16])
def test_all_runtimes_agree_on_the_golden_frames(
    program: Path, request: pytest.FixtureRequest, bits: int
) -> None:
    figures, _ = measure(request.getfixturevalue(FIXTURES[bits][0]), program, None)
    assert figures["cpp_fp32_max_error"] < 1e-4
    assert {figures[f"cpp_{precision}_changed_decisions"] for precision in PRECISIONS} == {0}


@pytest.mark.parametrize("tiles", [(), ("--tiles", "40")])
def test_colour_and_rectangles_are_pythons(
    program: Path, coloured: Path, images: list[Path], tiles: tuple[str, ...]
) -> None:
    done = run(program, coloured, "--precision", "fp32", *tiles, *images[::8])
    detector = Detector.load(coloured, "fp32")
    arrays = [np.asarray(Image.open(path)) for path in images[::8]]
    found = [detector.predict_tiles(one, 40) if tiles else detector.predict(one) for one in arrays]
    assert [float(row["score"]) for row in rows(done)] == pytest.approx(
        [one.score for one in found], abs=1e-4
    ), done.stderr


def test_tiles_and_their_stitched_maps_are_pythons(
    program: Path, exported: Path, images: list[Path], tmp_path: Path
) -> None:
    some = images[::8]
    done = run(program, exported, "--precision", "fp32", "--tiles", "40", "--maps", tmp_path, *some)
    detector = Detector.load(exported, "fp32", self_test=False)
    expected = [detector.predict_tiles(np.asarray(Image.open(path)), 40) for path in some]
    assert [float(row["score"]) for row in rows(done)] == pytest.approx(
        [one.score for one in expected], abs=1e-4
    ), done.stderr
    assert max(np.prod(one.anomaly_map.shape) for one in expected) > 2 * 128 * 128, "several tiles"
    for path, one in zip(some, expected, strict=True):
        found = np.asarray(Image.open(tmp_path / f"{path.relative_to('/')}.pfm"))
        np.testing.assert_allclose(found, one.anomaly_map, atol=1e-4)


def test_images_of_one_name_get_a_map_each(
    program: Path, exported: Path, images: list[Path], tmp_path: Path
) -> None:
    names = ["a/p.png", "b/p.png", "p.bmp", "p.png", "b/../q.png", "../r.png"]
    work = tmp_path / "work"
    for name, source in zip(names, images[:: len(images) // len(names)], strict=False):
        (work / "b").mkdir(parents=True, exist_ok=True)
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(source).save(work / name)
    done = run(program, exported, "--precision", "fp32", "--maps", "maps", *names, cwd=work)
    assert done.returncode == 3, done.stderr
    outside = str((tmp_path / "r.png").relative_to("/"))
    written = ["a/p.png", "b/p.png", "p.bmp", "p.png", "q.png", outside]
    found = {path.relative_to(work / "maps").as_posix() for path in work.rglob("*.pfm")}
    assert found == {f"{name}.pfm" for name in written}
    for row, name in zip(rows(done), written, strict=True):
        assert np.asarray(Image.open(work / f"maps/{name}.pfm")).max() == np.float32(row["score"])


def test_a_map_that_cannot_be_written_costs_no_verdict(
    program: Path, exported: Path, images: list[Path], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    (work / "maps").mkdir(parents=True)
    (work / "maps/b").touch()  # a file where a folder is needed
    (work / "maps/a.png.pfm").mkdir()
    (work / "b").mkdir()
    names = ["a.png", "b/a.png", "c.png"]
    for name in names:
        shutil.copy(images[5], work / name)
    done = run(program, exported, "--precision", "fp32", "--maps", "maps", *names, cwd=work)
    found = rows(done)
    assert [row["image"] for row in found] == names
    assert len({(row["score"], row["is_anomalous"]) for row in found}) == 1
    first, second = done.stderr.splitlines()
    assert first == "detect: a.png: maps/a.png.pfm cannot be written"
    assert second.startswith("detect: b/a.png: ")
    assert (work / "maps/c.png.pfm").is_file()
    assert done.returncode == 1


def test_names_on_standard_input_are_answered_one_by_one_and_bad_ones_cost_the_others_nothing(
    program: Path, exported: Path, images: list[Path], tmp_path: Path
) -> None:
    odd = tmp_path / 'a, "b".png'
    shutil.copy(images[5], odd)
    process = subprocess.Popen(
        [str(program), str(exported), "--precision", "fp32", "--threads", "1", "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    answers = [process.stdout.readline()]
    for path in (images[5], tmp_path / "none.png", odd):
        process.stdin.write(f"{path}\n")
        process.stdin.flush()
        answered, _, _ = select.select([process.stdout], [], [], 60)
        assert answered, f"{path} must be answered before the next name"
        answers.append(process.stdout.readline())
    _, errors = process.communicate()
    first, none, second = csv.DictReader(answers)
    assert (first["image"], second["image"]) == (str(images[5]), str(odd))
    assert first["score"] == second["score"]
    refused = {"image": f"{tmp_path}/none.png", "score": "", "is_anomalous": ""}
    assert none == refused | {"threshold": first["threshold"]}
    assert errors == f"detect: {tmp_path}/none.png does not exist\n"
    assert process.returncode == 1


def test_a_name_on_standard_input_whose_score_is_no_number_is_answered(
    program: Path, bundle: Path, tmp_path: Path
) -> None:
    give_dark_images_no_score(bundle)
    for name, level in (("bad.png", DARK - 1), ("good.png", 200)):
        Image.new("L", (128, 128), level).save(tmp_path / name)
    command = [str(program), str(bundle), "--precision", "fp32", "-"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, input="bad.png\ngood.png\n")
    assert [(row["image"], row["score"] != "") for row in rows(done)] == [
        ("bad.png", False),
        ("good.png", True),
    ], done.stderr


def test_what_is_no_readable_file_is_named(program: Path, exported: Path, tmp_path: Path) -> None:
    folder, pipe, loop, none = (tmp_path / name for name in ("folder", "pipe", "loop", "none"))
    folder.mkdir()
    os.mkfifo(pipe)
    loop.symlink_to(loop)  # for the superuser, whom no permission stops
    assert run(program, exported, folder, pipe, loop, none).stderr.splitlines() == [
        f"detect: {folder} is a folder: name images",
        f"detect: {pipe} is neither a file nor a folder",
        f"detect: {loop} cannot be read: Too many levels of symbolic links",
        f"detect: {none} does not exist",
    ]


def test_files_of_a_bundle_that_cannot_be_read_are_named(program: Path, bundle: Path, tmp_path: Path) -> None:
    metadata, loop = bundle / "metadata.json", tmp_path / "loop"
    loop.symlink_to(loop)
    (bundle / "metadata.sig").touch()
    done = run(program, bundle, "--public-key", loop)
    assert done.stderr == f"detect: {loop} cannot be read: Too many levels of symbolic links\n"
    done = run(program, bundle, "--public-key", "/proc/self/mem")  # opens, but its first byte does not exist
    assert done.stderr == "detect: /proc/self/mem cannot be read: Input/output error\n"
    metadata.unlink()
    metadata.mkdir()
    assert run(program, bundle).stderr == f"detect: {metadata} is a folder\n"
    metadata.rmdir()
    assert run(program, bundle).stderr == f"detect: {metadata} does not exist\n"


def test_exit_codes(program: Path, exported: Path, images: list[Path], tmp_path: Path) -> None:
    assert run(program).returncode == 2
    for wrong in (["--overlap", "3"], ["--tiles", "-1"], ["--threads", "many"], ["--precision"]):
        assert run(program, exported, *wrong).returncode == 2
    assert run(program, exported, "--precision", "fp32").returncode == 0
    scores = rows(run(program, exported, "--precision", "fp32", *images[::8]))
    calm = min(scores, key=lambda row: float(row["score"]))
    assert run(program, exported, "--precision", "fp32", calm["image"]).returncode == 0


def test_a_small_image_is_named(program: Path, exported: Path, tmp_path: Path) -> None:
    Image.new("L", (15, 40)).save(tmp_path / "small.png")
    done = run(program, exported, tmp_path / "small.png")
    assert (done.returncode, "small.png: 15x40 pixels" in done.stderr) == (1, True), done.stderr


def turned(path: Path, orientation: int, order: str) -> Path:
    """Write noise whose EXIF names an orientation, in little-endian (`<`) or big-endian (`>`) numbers."""
    exif = Image.Exif()
    exif.endian = order
    exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(noise(1)[0][:100]).save(path, exif=exif)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_image_that_exif_turns_is_refused_and_an_upright_one_is_scored(
    program: Path, exported: Path, tmp_path: Path, suffix: str, order: str
) -> None:
    images = [turned(tmp_path / f"{k}{suffix}", k, order) for k in (1, 2, 6, 8)]
    done = run(program, exported, "--precision", "fp32", *images)
    refused = [f"detect: {path}: turned by EXIF: save it upright" for path in images[1:]]
    assert done.stderr.splitlines() == refused
    (row,) = rows(done)
    detector = Detector.load(exported, "fp32", self_test=False)
    expected = detector.predict(detector.read(images[0]))
    tolerance = 1e-4 if suffix == ".png" else 0.05 * expected.score  # JPEG decoders differ by a level
    assert float(row["score"]) == pytest.approx(expected.score, abs=tolerance)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("form", ['tiff:Orientation="6"', "<tiff:Orientation>6</tiff:Orientation>"])
def test_xmp_turns_where_exif_says_nothing(
    program: Path, exported: Path, tmp_path: Path, suffix: str, form: str
) -> None:
    path, image = tmp_path / f"plate{suffix}", Image.fromarray(noise(1)[0][:100])
    if suffix == ".png":
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", form)
        image.save(path, pnginfo=text)
    else:
        image.save(path, xmp=form.encode())
    assert read_pixels(path).shape == (128, 100), "Python turns it"
    assert f"{path}: turned by EXIF" in run(program, exported, path).stderr


RAW_PROFILE, XMP = "Raw profile type exif", "XML:com.adobe.xmp"


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return exif.tobytes()


def raw_profile(orientation: int) -> str:
    """EXIF as ImageMagick writes it: a name and a length, then lines of hexadecimal digits."""
    digits = exif_of(orientation).hex()
    lines = [digits[at : at + 72] for at in range(0, len(digits), 72)]
    return "\n".join(["", "exif", f"{len(digits) // 2:8d}", *lines, ""])


# Text chunks that hold an orientation
CHUNKS: dict[str, Callable[[PngInfo, int], None]] = {
    "profile in tEXt": lambda info, turn: info.add_text(RAW_PROFILE, raw_profile(turn)),
    "profile in zTXt": lambda info, turn: info.add_text(RAW_PROFILE, raw_profile(turn), zip=True),
    "profile in iTXt": lambda info, turn: info.add_itxt(RAW_PROFILE, raw_profile(turn), "en", "EXIF"),
    "profile in compressed iTXt": lambda info, turn: info.add_itxt(
        RAW_PROFILE, raw_profile(turn), "en", "EXIF", zip=True
    ),
    "profile after the pixels": lambda info, turn: info.add(
        b"tEXt", f"{RAW_PROFILE}\0{raw_profile(turn)}".encode(), after_idat=True
    ),
    "EXIF in tEXt": lambda info, turn: info.add(b"tEXt", b"exif\0" + exif_of(turn)),
    "XMP in tEXt": lambda info, turn: info.add_text(XMP, f'tiff:Orientation="{turn}"'),
    "XMP in zTXt": lambda info, turn: info.add_text(XMP, f'tiff:Orientation="{turn}"', zip=True),
    "XMP in compressed iTXt": lambda info, turn: info.add_itxt(XMP, f'tiff:Orientation="{turn}"', zip=True),
}


@pytest.mark.parametrize("add", CHUNKS.values(), ids=CHUNKS.keys())
def test_a_png_that_a_text_chunk_turns_is_refused_and_an_upright_one_is_scored(
    program: Path, exported: Path, tmp_path: Path, add: Callable[[PngInfo, int], None]
) -> None:
    turned_sides = {1: (100, 128), 6: (128, 100)}
    for turn, sides in turned_sides.items():
        info = PngInfo()
        add(info, turn)
        Image.fromarray(noise(1)[0][:100]).save(tmp_path / f"{turn}.png", pnginfo=info)
        assert read_pixels(tmp_path / f"{turn}.png").shape == sides
    done = run(program, exported, *(tmp_path / f"{turn}.png" for turn in turned_sides))
    assert done.stderr == f"detect: {tmp_path}/6.png: turned by EXIF: save it upright\n"
    assert [row["image"] for row in rows(done)] == [f"{tmp_path}/1.png"]


def test_exif_counts_before_a_raw_profile_and_a_profile_before_xmp(
    program: Path, exported: Path, tmp_path: Path
) -> None:
    exif, profile = tmp_path / "exif.png", tmp_path / "profile.png"
    image, info = Image.fromarray(noise(1)[0][:100]), PngInfo()
    info.add_text(RAW_PROFILE, raw_profile(6))
    image.save(exif, pnginfo=info, exif=exif_of(1))
    info = PngInfo()
    info.add_text(RAW_PROFILE, raw_profile(1))
    info.add_itxt(XMP, 'tiff:Orientation="6"')
    image.save(profile, pnginfo=info)
    assert read_pixels(exif).shape == read_pixels(profile).shape == (100, 128), "upright"
    done = run(program, exported, exif, profile)
    assert (done.stderr, len(rows(done))) == ("", 2)


@pytest.mark.parametrize("content", ["0" * 2**21, "\nexif\n3\nno", "\nexif"])
def test_a_raw_profile_that_is_none_turns_nothing_and_a_huge_one_is_refused(
    program: Path, exported: Path, tmp_path: Path, content: str
) -> None:
    info, path = PngInfo(), tmp_path / "plate.png"
    info.add_text(RAW_PROFILE, content, zip=True)
    Image.fromarray(noise(1)[0]).save(path, pnginfo=info)
    done = run(program, exported, path)
    if len(content) < 2**20:
        assert read_pixels(path).shape == (128, 128)
        assert (done.stderr, len(rows(done))) == ("", 1)
    else:
        with pytest.raises(RejectedFileError, match="MAX_TEXT_CHUNK"):
            read_pixels(path)
        assert done.stderr == f"detect: {path}: unreadable image: it is cut off or damaged\n"


def test_bytes_after_the_end_of_a_png_are_left_alone(program: Path, exported: Path, tmp_path: Path) -> None:
    plain, longer = tmp_path / "plain.png", tmp_path / "longer.png"
    Image.fromarray(noise(1)[0]).save(plain)
    longer.write_bytes(plain.read_bytes() + b"what a camera adds after the last chunk")
    np.testing.assert_array_equal(read_pixels(longer), read_pixels(plain))
    done = run(program, exported, "--precision", "fp32", plain, longer)
    assert done.stderr == ""
    assert len({row["score"] for row in rows(done)}) == 1


def write_pictures(path: Path, count: int, order: str, before: bytes = b"") -> None:
    """Write a JPEG whose index (CIPA DC-007) names so many pictures, in numbers of an order (`<` or `>`)."""
    Image.fromarray(noise(1)[0]).save(path)
    header = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    entries = struct.pack(f"{order}HHHI4s", 3, 0xB000, 7, 4, b"0100")
    entries += struct.pack(f"{order}HHII", 0xB001, 4, 1, count)
    entries += struct.pack(f"{order}HHIII", 0xB002, 7, 16 * count, 50, 0)
    index = b"MPF\0" + header + entries + bytes(16 * count)
    content = path.read_bytes()
    segment = b"\xff\xe2" + struct.pack(">H", len(index) + 2) + index
    path.write_bytes(content[:2] + before + segment + content[2:])


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_jpeg_of_several_pictures_is_refused(
    program: Path, exported: Path, tmp_path: Path, order: str
) -> None:
    one, two, three, ultra_hdr = (tmp_path / f"{name}.jpg" for name in ("one", "two", "three", "ultra_hdr"))
    for count, path in enumerate((one, two, three), 1):
        write_pictures(path, count, order)
    gain = b'http://ns.adobe.com/xap/1.0/\0<rdf:Description hdrgm:Version="1.0"/>'
    write_pictures(ultra_hdr, 2, order, b"\xff\xe1" + struct.pack(">H", len(gain) + 2) + gain)
    for count, path in ((2, two), (3, three)):
        with pytest.raises(RejectedFileError, match=f"file of {count} pages or frames"):
            read_pixels(path)
    assert read_pixels(one).shape == read_pixels(ultra_hdr).shape == (128, 128)
    done = run(program, exported, one, two, three, ultra_hdr)
    assert [row["image"] for row in rows(done)] == [str(one), str(ultra_hdr)]
    assert done.stderr.splitlines() == [
        f"detect: {path}: {count} frames: save each as a file of its own"
        for count, path in ((2, two), (3, three))
    ]


@pytest.mark.parametrize("kind", ["GIF", "TGA", "PPM"])
def test_formats_that_python_refuses_are_refused(
    program: Path, exported: Path, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "plate.png"
    Image.fromarray(noise(1)[0]).save(path, format=kind)
    with pytest.raises(RejectedFileError):
        read_pixels(path)
    assert f"{path}: unreadable image" in run(program, exported, path).stderr


def test_files_that_python_refuses_are_refused(program: Path, exported: Path, tmp_path: Path) -> None:
    damaged = ("cut.jpg", "cut.bmp", "cut_colour.bmp", "cut.png", "flipped.png")
    paths = {name: tmp_path / name for name in (*HOSTILE, *damaged)}
    for name, (make, _) in HOSTILE.items():
        make(paths[name])
    for name in damaged:
        image = Image.fromarray(noise(1)[0])
        (image.convert("RGB") if "colour" in name else image).save(paths[name])
        whole = bytearray(paths[name].read_bytes())
        if "cut" in name:
            del whole[-2000:]
        else:
            whole[len(whole) // 2] ^= 4
        paths[name].write_bytes(whole)
        with pytest.raises(RejectedFileError, match=r"truncated|broken"):
            read_pixels(paths[name])
    done = run(program, exported, "--precision", "fp32", *paths.values())
    assert rows(done) == []
    lines = [line.removeprefix(f"detect: {tmp_path}/") for line in done.stderr.splitlines()]
    reasons = dict(line.split(": ", 1) for line in lines)
    assert reasons.keys() == paths.keys()
    named = {
        "cmyk.jpg": "4 channels: save it as grey or RGB",
        "deep_colour.png": "16-bit colour: save it as 16-bit grey or as 8-bit colour",
        "animated.png": "2 frames: save each as a file of its own",
        **dict.fromkeys(damaged, "unreadable image: it is cut off or damaged"),
    }
    assert {name: reasons[name] for name in named} == named


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_a_transparent_level_is_refused_and_the_others_are_scored(
    program: Path, exported: Path, images: list[Path], tmp_path: Path, mode: str
) -> None:
    """The image reader then gives more channels than the header says."""
    path = tmp_path / "transparent.png"
    pixels = noise(1)[0]
    image = Image.fromarray(pixels.astype(np.uint16) * 100) if mode == "I;16" else Image.fromarray(pixels)
    image = image.convert("RGB") if mode == "RGB" else image
    image.save(path, transparency=(1, 2, 3) if mode == "RGB" else 1)
    done = run(program, exported, "--precision", "fp32", path, images[0])
    assert [row["image"] for row in rows(done)] == [str(images[0])]
    assert done.stderr == f"detect: {path}: {4 if mode == 'RGB' else 2} channels: save it as grey or RGB\n"


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_kind_of_whole_bmp_is_scored(program: Path, exported: Path, tmp_path: Path, mode: str) -> None:
    whole = tmp_path / "whole.bmp"
    Image.fromarray(noise(1)[0][:, :37]).convert(mode).save(whole)  # rows that need filling up
    content = bytearray(whole.read_bytes())
    upside_down = tmp_path / "upside_down.bmp"
    content[22:26] = (-int.from_bytes(content[22:26], "little")).to_bytes(4, "little", signed=True)
    upside_down.write_bytes(content)
    done = run(program, exported, "--precision", "fp32", whole, upside_down)
    assert done.stderr == ""
    assert len(rows(done)) == 2


def test_levels_that_only_files_have_leave_8_bit_images_alone(
    program: Path, bundle: Path, images: list[Path], tmp_path: Path
) -> None:
    before = rows(run(program, bundle, "--precision", "fp32", images[1]))
    content = read_json(bundle / "metadata.json")
    content["input"]["levels"] = {"low": 0.0, "high": 100_000.0, "clip": True}
    write_json(bundle / "metadata.json", content)
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((40, 50), 5000, np.uint16)).save(deep)
    done = run(program, bundle, "--precision", "fp32", images[1], deep)
    assert rows(done) == before
    assert done.stderr == f"detect: {deep}: 16-bit image: this detector takes 8-bit images\n"


def test_a_strip_is_refused_beyond_8_to_1(program: Path, exported: Path, tmp_path: Path) -> None:
    sizes = {"at.png": (320, 40), "wide.png": (321, 40), "high.png": (40, 321)}
    for name, size in sizes.items():
        Image.new("L", size, 100).save(tmp_path / name)
    done = run(program, exported, *(tmp_path / name for name in sizes))
    assert [row["image"] for row in rows(done)] == [str(tmp_path / "at.png")]
    assert [line.split(" which ")[0] for line in done.stderr.splitlines()] == [
        f"detect: {tmp_path}/wide.png: 321x40 is a strip,",
        f"detect: {tmp_path}/high.png: 40x321 is a strip,",
    ]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bad_input_is_refused_with_the_reason_and_the_others_are_scored(
    program: Path, bundle: Path, coloured: Path, tmp_path: Path, case: Case
) -> None:
    good = write_good(tmp_path / "good.png")
    bad = case.make(Line(bundle, coloured, tmp_path))
    key = ["--public-key", bad.key] if bad.key else []
    images = [bad.image, good] if bad.image else [good]
    done = run(program, bundle, "--precision", "fp32", *key, *images)
    assert done.returncode == 1
    assert case.cpp in done.stderr
    assert [row["image"] for row in rows(done)] == ([str(good)] if bad.image else [])


def test_a_graph_with_other_outputs_is_refused(program: Path, bundle: Path) -> None:
    frame = ops.parameter([1, -1, -1, -1], np.uint8, name="frame")
    frame.output(0).get_tensor().set_names({"frame"})
    openvino.save_model(openvino.Model([ops.result(frame)], [frame], "other"), bundle / "detector_fp32.xml")
    content = read_json(bundle / "metadata.json")
    content["sha256"] |= hashes(bundle)
    write_json(bundle / "metadata.json", content)
    done = run(program, bundle, "--precision", "fp32")
    assert (done.returncode, "detector_fp32.xml is not a detector's graph" in done.stderr) == (1, True)


def brightness(image: np.ndarray) -> float:
    """The score that `give_dark_images_no_score` makes the graph give."""
    return float(np.sqrt(np.float32(image.max()) - np.float32(DARK)))


def give_dark_images_no_score(bundle: Path) -> None:
    """Put a graph into the bundle whose score is NaN where no level reaches `DARK`."""
    frame = ops.parameter([1, -1, -1, -1], np.uint8, name="frame")
    frame.output(0).get_tensor().set_names({"frame"})
    brightest = ops.reduce_max(ops.convert(frame, "f32"), np.array([1, 2, 3]), keep_dims=True)
    score = ops.sqrt(ops.subtract(brightest, np.float32(DARK)))
    results = {
        "anomaly_map": ops.broadcast(score, np.array([1, 1, SIZE, SIZE])),
        "score": ops.reshape(score, np.array([1]), special_zero=False),
    }
    for name, node in results.items():
        node.output(0).get_tensor().set_names({name})
    model = openvino.Model([ops.result(node) for node in results.values()], [frame], "brightness")
    openvino.save_model(model, bundle / "detector_fp32.xml", compress_to_fp16=False)
    content = read_json(bundle / "metadata.json")
    for item in content["golden"]:
        item["scores"]["fp32"] = brightness(np.asarray(Image.open(bundle / "golden" / item["file"])))
    content["sha256"] |= hashes(bundle)
    write_json(bundle / "metadata.json", content)


@pytest.mark.parametrize("tiles", [(), ("--tiles", "40")])
@pytest.mark.parametrize("dark", [slice(0, 128), slice(128, 256)], ids=["first tile", "last tile"])
def test_an_image_without_a_finite_score_is_an_error(
    program: Path, bundle: Path, tmp_path: Path, dark: slice, tiles: tuple[str, ...]
) -> None:
    give_dark_images_no_score(bundle)
    pixels = np.full((256, 128), 200, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "good.png")
    pixels[dark if tiles else ...] = DARK - 1
    Image.fromarray(pixels).save(tmp_path / "bad.png")
    done = run(program, bundle, "--precision", "fp32", *tiles, tmp_path / "bad.png", tmp_path / "good.png")
    assert done.stderr == f"detect: {tmp_path}/bad.png: the score is no finite number: try precision fp32\n"
    assert [float(row["score"]) for row in rows(done)] == [pytest.approx(np.sqrt(200 - DARK))]
    assert done.returncode == 1


def test_a_self_test_without_a_finite_score_names_the_frame(program: Path, bundle: Path) -> None:
    give_dark_images_no_score(bundle)
    name = read_metadata(bundle).golden[1].file
    Image.new("L", (40, 40)).save(bundle / "golden" / name)
    content = read_json(bundle / "metadata.json")
    content["sha256"] |= hashes(bundle)
    write_json(bundle / "metadata.json", content)
    done = run(program, bundle, "--precision", "fp32")
    assert f"fails its self-test: golden/{name}: the score is no finite number" in done.stderr
    assert done.returncode == 1


def test_an_empty_name_of_a_public_key_does_not_switch_the_check_off(program: Path, bundle: Path) -> None:
    done = run(program, bundle, "--public-key", "")
    assert done.stderr == "detect: the public key's path is empty: name its PEM file\n"
    assert done.returncode == 1


def test_a_changed_bundle_is_refused(program: Path, bundle: Path, tmp_path: Path) -> None:
    private, public = key_files(tmp_path, "plant")
    _, stranger = key_files(tmp_path, "stranger")
    assert "metadata.sig does not exist" in run(program, bundle, "--public-key", public).stderr
    sign(bundle, private)
    assert run(program, bundle, "--public-key", public).returncode == 0
    assert "another key signed it" in run(program, bundle, "--public-key", stranger).stderr
    content = read_json(bundle / "metadata.json")
    content["golden"][0]["scores"]["fp16"] += 0.5
    write_json(bundle / "metadata.json", content)
    assert "fails its self-test: golden/00.png" in run(program, bundle).stderr
    write_json(bundle / "metadata.json", content | {"golden": []})
    done = run(program, bundle)
    assert (done.returncode, "names no golden frames" in done.stderr) == (1, True), done.stderr
    write_json(bundle / "metadata.json", content)
    shutil.copy(bundle / "detector_fp32.bin", bundle / "detector_fp16.bin")
    done = run(program, bundle)
    assert done.returncode == 1
    assert "detector_fp16.bin is not the file that metadata.json describes" in done.stderr
