"""The C++ program gives the scores and decisions that Python gives."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np
import openvino
import pytest
from PIL import Image

from metaldefect.artifacts import read_json, write_json
from metaldefect.deploy.bundle import PRECISIONS, read_metadata
from metaldefect.deploy.runtime import Detector
from metaldefect.deploy.signature import sign
from tests.deploy.bad_inputs import CASES, Case, Line, write_good
from tests.deploy.keys import key_files

SOURCE = Path(__file__).parents[2] / "deploy/cpp"
HEADERS = ("stb/stb_image.h", "nlohmann/json.hpp", "openssl/evp.h")
MISSING = [name for name in ("cmake", "g++") if shutil.which(name) is None] + [
    name for name in HEADERS if not (Path("/usr/include") / name).is_file()
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needed to build C++ and not here: {MISSING}")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built program."""
    build = tmp_path_factory.mktemp("build")
    package = Path(openvino.__file__).parent
    configure = ["cmake", "-S", str(SOURCE), "-B", str(build), "-DCMAKE_BUILD_TYPE=Debug"]
    for command in ([*configure, f"-DOpenVINO_DIR={package / 'cmake'}"], ["cmake", "--build", str(build)]):
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


def run(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True)


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
    return list(csv.DictReader(done.stdout.splitlines()))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_scores_and_decisions_are_pythons(
    program: Path, exported: Path, images: list[Path], precision: str
) -> None:
    golden = [exported / "golden" / item.file for item in read_metadata(exported).golden]
    images = images if precision == "fp32" else images[::4]
    done = run(program, exported, "--precision", precision, "--throughput", *golden, *images)
    assert done.returncode == 3, done.stderr
    detector = Detector.load(exported, precision)
    expected = [detector.predict(np.asarray(Image.open(path))) for path in [*golden, *images]]
    found = rows(done)
    assert [row["image"] for row in found] == [str(path) for path in [*golden, *images]]
    assert [row["is_anomalous"] == "True" for row in found] == [one.is_anomalous for one in expected]
    assert {one.is_anomalous for one in expected} == {True, False}
    tolerance = 1e-4 if precision == "fp32" else 1e-2
    assert [float(row["score"]) for row in found] == pytest.approx(
        [one.score for one in expected], abs=tolerance
    )


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
        found = np.asarray(Image.open(tmp_path / f"{path.stem}.pfm"))
        np.testing.assert_allclose(found, one.anomaly_map, atol=1e-4)


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
        if path.is_file():  # the answer comes before the next name
            answers.append(process.stdout.readline())
    _, errors = process.communicate()
    first, second = csv.DictReader(answers)
    assert (first["image"], second["image"]) == (str(images[5]), str(odd))
    assert first["score"] == second["score"]
    assert errors == f"detect: {tmp_path}/none.png does not exist\n"
    assert process.returncode == 1


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
    shutil.copy(bundle / "detector_fp32.bin", bundle / "detector_fp16.bin")
    done = run(program, bundle)
    assert done.returncode == 1
    assert "detector_fp16.bin is not the file that metadata.json describes" in done.stderr
