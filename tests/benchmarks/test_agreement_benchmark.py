"""What `python -m benchmarks.agreement` counts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import agreement
from benchmarks.agreement import AnswerDifference, Answers, compare, measure
from benchmarks.results import read
from metaldefect.deploy.bundle import PRECISIONS, Tolerance

# They read the golden scores, get the first one wrong by 0.25, and decide the last one otherwise.
OTHER = """
import json, sys
from pathlib import Path

def answers(bundle, precision, files):
    content = json.loads((Path(bundle) / "metadata.json").read_text())
    scores = {frame["file"]: frame["scores"][precision] for frame in content["golden"]}
    threshold = content["precisions"][precision]["threshold"]
    found = [[scores[Path(file).name], scores[Path(file).name] > threshold] for file in files]
    found[0][0] += 0.25
    found[-1][1] = not found[-1][1]
    return found

"""
CPP = """
bundle, option, precision, *files = sys.argv[1:]
assert option == "--precision", sys.argv
print("image,score,threshold,is_anomalous")
for file, (score, bad) in zip(files, answers(bundle, precision, files)):
    print(f"{file},{score:.9g},0,{bad}")
sys.exit(3)
"""
ANOMALIB = """
program, graph, hint, *files = sys.argv[1:]
assert Path(program).name == "scores.py" and Path(graph).is_file(), sys.argv
with (Path(__file__).parent / "hints").open("a") as hints:
    hints.write(hint + "\\n")
precision = "fp32" if hint == "f32" else "fp16"
print("a warning of somebody else's")
print(json.dumps(answers(BUNDLE, precision, files)))
"""


def write_program(path: Path, text: str) -> Path:
    """An executable Python program."""
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


def test_differences_and_changed_decisions() -> None:
    ours = Answers([0.1, 0.5, 0.9], [False, True, True])
    theirs = Answers([0.1, 0.3, 0.8], [False, False, True])
    tight, loose = Tolerance(absolute=0.15, relative=0), Tolerance(absolute=0.01, relative=0.4)
    assert compare(ours, theirs, tight) == (pytest.approx(0.2), 1, 1)
    assert compare(ours, theirs, loose) == (pytest.approx(0.2), 1, 0)
    assert compare(ours, theirs, tight, (0.0, 0.3)) == (0.0, 1, 0), "beyond the limits, scores count as equal"


def test_model_api_agrees_on_a_bundle(planted: dict[str, Path]) -> None:
    pytest.importorskip("model_api", reason="openvino-model-api is not installed")
    figures, details = measure(planted["good"].parent / "raw", None, None)
    assert figures["golden_frames"] == 8
    assert figures["model_api_fp32_max_error"] < 1e-4
    assert {name: value for name, value in figures.items() if "changed" in name and value} == {}
    assert len(details["scores"]["int8"]) == 8
    assert details["disagreements"] == []


def test_the_cpp_programs_and_anomalibs_answers_are_compared(
    planted: dict[str, Path], tmp_path: Path
) -> None:
    bundle = planted["good"].parent / "raw"
    cpp = write_program(tmp_path / "detect", OTHER + CPP)
    python = write_program(tmp_path / "python", OTHER + f"BUNDLE = {str(bundle)!r}\n" + ANOMALIB)
    figures, details = measure(bundle, cpp, str(python))
    for precision in PRECISIONS:
        assert figures[f"cpp_{precision}_max_error"] == pytest.approx(0.25, abs=1e-4)
        assert figures[f"cpp_{precision}_changed_decisions"] == 1
    for precision in ("fp32", "fp16"):
        assert figures[f"anomalib_{precision}_max_error"] == pytest.approx(0.25, abs=1e-4)
        assert figures[f"anomalib_{precision}_changed_decisions"] == 1
    assert {words.split()[0] for words in details["disagreements"]} == {"cpp", "anomalib"}
    assert (tmp_path / "hints").read_text().split() == ["f32", "default", "default"]


def test_a_program_that_fails_is_named_with_its_message(planted: dict[str, Path], tmp_path: Path) -> None:
    bundle = planted["good"].parent / "raw"
    failing = write_program(tmp_path / "detect", "import sys\nsys.exit('no such bundle')")
    with pytest.raises(SystemExit, match="detect failed: no such bundle"):
        measure(bundle, failing, None)
    with pytest.raises(SystemExit, match=r"scores\.py failed:\nno such bundle"):
        measure(bundle, None, str(failing))


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (AnswerDifference(1e-8, 0, 0), []),
        (AnswerDifference(1e-8, 2, 0), ["cpp in int8 decides 2 golden frames otherwise"]),
        (AnswerDifference(0.25, 0, 1), ["cpp in int8 scores 1 golden frames off by up to 0.25"]),
    ],
)
def test_the_command_publishes_and_then_fails_when_a_runtime_disagrees(
    difference: AnswerDifference, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disagreements = difference.in_words("cpp in int8")
    assert disagreements == words
    found = {"cpp_int8_changed_decisions": difference.changed}, {"disagreements": disagreements}
    monkeypatch.setattr(agreement, "measure", lambda *_: found)
    results = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["agreement", "--results", str(results)])
    if words:
        with pytest.raises(SystemExit, match=rf"^benchmarks\.agreement: {words[0]}"):
            agreement.main()
    else:
        agreement.main()
    assert read(results).figures["cpp_int8_changed_decisions"] == difference.changed
