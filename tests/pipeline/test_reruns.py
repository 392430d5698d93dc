"""What a change reruns: evaluation never retrains, and how things look never changes what they are.

DVC decides by hashes of what a stage reads, so a clone serves in which every out is a stand-in that
`dvc commit` has recorded as made: what `dvc status` then says is what it says after a whole run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from pipeline.report.graph import dependencies, stage_entries
from tests.e2e.conftest import Project, clone, record_stand_ins

TRAINING = {"finetune_vq", "train_maskgit", "distill_teacher", "train_efficientad"}
DATA = {"sample", "merge", "augment", "tokenize"}
EVALUATION = {
    "evaluate_vq", "evaluate_maskgit", "evaluate_synthesis", "evaluate_efficientad", "evaluate_openvino",
}  # fmt: skip
AFTER_CALIBRATION = {"calibrate", "evaluate_efficientad", "export_openvino", "evaluate_openvino", "report"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone in which DVC takes every stage for done."""
    project = clone(tmp_path_factory.mktemp("made"), "tiny")
    record_stand_ins(project)
    assert "up to date" in project.dvc("status")
    return project


@pytest.fixture
def finished(made: Project) -> Iterator[Project]:
    """The clone; every file that a test edits is as it was again afterwards."""
    files = [*made.root.glob("params.yaml"), *made.root.glob("pipeline/**/*"), *code(made.root)]
    before = {path: path.read_bytes() for path in files if path.is_file()}
    yield made
    for path, content in before.items():
        if path.read_bytes() != content:
            path.write_bytes(content)


def code(root: Path) -> list[Path]:
    return [*root.glob("metaldefect/**/*.py"), *root.glob("stages/*.py")]


def reruns(project: Project) -> set[str]:
    """The stages that `dvc repro` would run: those that changed, and all that reads their outs.

    `dvc status` names the first ones only, for the outs that others read have not changed yet.
    """
    # In this process: what `dvc status --json` prints, without the seconds that DVC needs to start
    with Repo(str(project.root)) as repo:
        status = repo.status()
    changed = {name.rpartition(":")[2] for name in status}
    params = yaml.safe_load((project.root / "params.yaml").read_text())
    definition = yaml.safe_load((project.root / "dvc.yaml").read_text())
    upstream = dependencies(stage_entries(definition, params))
    found = set(changed)
    while more := {name for name, parents in upstream.items() if parents & found} - found:
        found |= more
    return found


def files(project: Project, pattern: str) -> list[str]:
    """Files of the clone, relative to its root."""
    return [
        str(path.relative_to(project.root)) for path in sorted(project.root.glob(pattern)) if path.is_file()
    ]


def touch(project: Project, *files: str) -> None:
    """Change files without changing what they do."""
    for name in files:
        path = project.root / name
        assert path.is_file(), name
        comment = "<!-- changed -->" if path.suffix == ".j2" else "# changed"
        path.write_text(path.read_text() + f"{comment}\n")


@pytest.mark.parametrize(
    ("dotted", "value"),
    [
        ("synthesize.sampling.guidance", 1.5),
        ("synthesize.sampling.temperature", 0.9),
        ("synthesize.candidates.per_image", 3),
        ("synthesize.candidates.guidance", 0.5),
    ],
)
def test_sampling_settings_draw_again_and_train_nothing_again(
    finished: Project, dotted: str, value: object
) -> None:
    finished.set_param(dotted, value)
    assert reruns(finished) == {"synthesize", "evaluate_synthesis", *AFTER_CALIBRATION}


@pytest.mark.parametrize(
    "dotted",
    [
        "evaluate_vq.images",
        "evaluate_vq.curve_points",
        "evaluate_vq.curve_images",
        "evaluate_maskgit.images",
        "evaluate_maskgit.curve_points",
        "evaluate_maskgit.curve_images",
        "evaluate_synthesis.border_images",
        "evaluate_synthesis.judge.steps",
        "evaluate_synthesis.realism_defects",
        "evaluate_efficientad.bootstrap_samples",
        "evaluate_openvino.latency_frames",
    ],
)
def test_what_is_evaluated_reruns_that_evaluation_alone(finished: Project, dotted: str) -> None:
    finished.set_param(dotted, 3)
    assert reruns(finished) == {dotted.partition(".")[0], "report"}


def test_code_of_metrics_reruns_evaluation_alone(finished: Project) -> None:
    metrics = files(finished, "metaldefect/metrics/*.py")
    evaluations = files(finished, "metaldefect/*/evaluation.py")
    assert len(metrics) > 5
    assert len(evaluations) >= 4
    touch(finished, *metrics, *evaluations)
    assert reruns(finished) == {*EVALUATION, "report"}


def test_code_of_figures_report_and_tracking_reruns_no_training_and_no_data(finished: Project) -> None:
    figures = files(finished, "metaldefect/**/figures.py")
    assert len(figures) >= 6
    plumbing = ["pipeline/run.py", "pipeline/params.py", "metaldefect/terminal.py", "stages/__init__.py"]
    touch(finished, *figures, *files(finished, "pipeline/report/*.*"), *plumbing)
    found = reruns(finished)
    assert "report" in found
    assert found <= {*EVALUATION, "report"}
    assert not found & (TRAINING | DATA | {"synthesize", "calibrate", "export_openvino"})


def test_tracking_and_report_code_reruns_the_report_alone(finished: Project) -> None:
    touch(finished, "pipeline/run.py", "pipeline/report/tables.py", "pipeline/report/page.html.j2")
    assert reruns(finished) == {"report"}


def test_the_thresholds_target_calibrates_again_and_trains_nothing_again(finished: Project) -> None:
    finished.set_param("calibrate.false_alarms", 0.1)
    assert reruns(finished) == AFTER_CALIBRATION


def test_redrawn_insertions_calibrate_again_and_train_nothing_again(finished: Project) -> None:
    finished.set_param("synthesize.insertions_per_class", 3)
    found = reruns(finished)
    assert found == {"synthesize", "evaluate_synthesis", *AFTER_CALIBRATION}
    assert not found & TRAINING


def test_training_settings_rerun_what_follows(finished: Project) -> None:
    """The counterpart: where training is touched, everything after it is made anew."""
    finished.set_param("train_maskgit.training.steps", 13)
    found = reruns(finished)
    assert {"train_maskgit", "evaluate_maskgit", "synthesize", "evaluate_synthesis"} <= found
    assert not found & {"finetune_vq", "evaluate_vq", "tokenize", "distill_teacher", "train_efficientad"}
