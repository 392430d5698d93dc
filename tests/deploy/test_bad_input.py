"""Bad input at every door: a clear error, an exit code or a 4xx, and the process lives (C++: test_cpp.py)."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from metaldefect.commands.serve import make_service
from metaldefect.deploy.runtime import Detector
from metaldefect.deploy.service_routes import create_app
from metaldefect.errors import UserError
from pipeline.cli import main
from tests.deploy.bad_inputs import CASES, Bad, Case, Line, write_good


def python(case: Case, line: Line, good: Path) -> str:
    """The library raises one exception type, and the detector in use goes on."""
    detector = Detector.load(line.bundle, "fp32", self_test=False)
    bad = case.make(line)
    with pytest.raises(UserError) as error:
        if bad.image is None:
            Detector.load(line.bundle, "fp32", public_key=bad.key)
        else:
            detector.predict(detector.read(bad.image))
    assert np.isfinite(detector.predict(detector.read(good)).score)
    return str(error.value)


def detect(case: Case, line: Line, good: Path) -> str:
    """The command exits with 1 and says why; a bad image costs the others nothing."""
    bad = case.make(line)
    photos, output = line.folder / "photos", line.folder / "output"
    photos.mkdir()
    for image in (good, *([bad.image] if bad.image else [])):
        shutil.copy(image, photos)
    key = ["--public-key", str(bad.key)] if bad.key else []
    command = ["detect", "--model", str(line.bundle), "--precision", "fp32", *key]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--image", str(photos), "--output", str(output)])
    if bad.image is not None:
        with (output / "scores.csv").open(encoding="utf-8") as table:
            rows = {row["image"]: row for row in csv.DictReader(table)}
        assert rows["good.png"]["score"]
        assert rows["bad.png"]["refused"]
    assert isinstance(stop.value.code, str), "text: Python prints it and exits with 1"
    return stop.value.code


def serve(case: Case, line: Line, good: Path) -> str:
    """The service answers with the status, and goes on with the detector that it has."""
    before = shutil.copytree(line.bundle, line.folder / "before")
    service = make_service(line.bundle, "fp32")
    bad = case.make(line)
    with TestClient(create_app(service)) as client:
        if bad.image is not None:
            answer = client.post("/predict", content=bad.image.read_bytes())
        elif bad.key is None:
            answer = client.post("/model/reload")
        else:
            return refused_at_start(line, bad)
        assert answer.status_code == case.status, answer.text
        assert client.get("/health").status_code == 200
        verdict = client.post("/predict", content=good.read_bytes()).json()
    detector = Detector.load(before, "fp32", self_test=False)
    assert verdict["score"] == pytest.approx(detector.predict(np.asarray(Image.open(good))).score, abs=1e-4)
    return str(answer.json()["detail"])


def refused_at_start(line: Line, bad: Bad) -> str:
    """A service that demands a signature does not start with another one."""
    with pytest.raises(UserError) as error:
        make_service(line.bundle, "fp32", public_key=bad.key)
    return str(error.value)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("door", [python, detect, serve], ids=lambda door: door.__name__)
def test_bad_input_is_refused_with_the_reason_and_the_process_lives(
    door: Callable[[Case, Line, Path], str], case: Case, bundle: Path, coloured: Path, tmp_path: Path
) -> None:
    line = Line(bundle, coloured, tmp_path)
    assert case.python in door(case, line, write_good(tmp_path / "good.png"))
