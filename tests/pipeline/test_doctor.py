"""`metaldefect doctor`: each finding on a folder, or a value, that calls for it."""

from __future__ import annotations

import importlib.metadata
import json
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from metaldefect.errors import UserError
from metaldefect.tokenizer.perceptual import provide_backbone
from pipeline import doctor
from pipeline.dead_runs import birth_of
from pipeline.deployment import Background


def lines(findings: object) -> list[str]:
    return [str(finding) for finding in findings]  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("PREFECT_API_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))


def test_a_wrong_version_of_a_pin_that_matters_fails_and_says_what_breaks(tmp_path: Path) -> None:
    installed = importlib.metadata.version("sqlalchemy")
    (tmp_path / "constraints.txt").write_text("SQLAlchemy==1.4.0\nnumpy==0.1  # old\nnot_installed==1\n")
    found = lines(doctor.check_pins(tmp_path))
    assert (
        f"FAIL sqlalchemy: {installed} instead of ==1.4.0: Prefect's schedule silently never starts a run; "
        f"type `pip install -c {doctor.INSTALLED}/constraints.txt -e {doctor.INSTALLED}`"
    ) in found
    assert any(line.startswith("note pins: differ from constraints.txt: numpy ") for line in found)
    assert "not_installed" not in "".join(found)


def test_pins_as_installed_are_ok(tmp_path: Path) -> None:
    version = importlib.metadata.version("pydantic")
    (tmp_path / "constraints.txt").write_text(f"# pins\npydantic=={version}\n")
    assert "ok   pins: 1 installed packages as in constraints.txt" in lines(doctor.check_pins(tmp_path))


def test_missing_and_broken_constraints_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [finding.level for finding in doctor.check_pins(tmp_path)]
    assert len(found) > 1, "a project of its own is held against the clone it was made with"
    monkeypatch.setattr(doctor, "INSTALLED", tmp_path)
    (finding,) = doctor.check_pins(tmp_path)
    assert str(finding).startswith("note pins: no constraints.txt beside the package")
    with pytest.raises(UserError, match="'numpy === = 3' is no requirement"):
        doctor.read_pins("numpy === = 3")


def test_a_port_in_use_is_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as taken, socket.socket() as other:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other.bind(("127.0.0.1", 0))
        free = other.getsockname()[1]
        other.close()
        monkeypatch.setattr(doctor, "PORTS", {"Busy": taken.getsockname()[1], "Idle": free})
        levels = {finding.name: finding.level for finding in doctor.check_ports(tmp_path)}
    assert levels == {"Busy": "note", "Idle": "ok"}


def test_prefect_database_missing_empty_and_migrated(tmp_path: Path) -> None:
    file = tmp_path / "prefect" / "prefect.db"
    assert [finding.level for finding in doctor.check_prefect(tmp_path)] == ["note"]
    file.parent.mkdir()
    file.touch()
    assert [finding.level for finding in doctor.check_prefect(tmp_path)] == ["FAIL"]
    write_revision(file, "abc123")
    assert lines(doctor.check_prefect(tmp_path)) == [f"ok   Prefect database: {file}, migrated to abc123"]


def test_mlflow_store_missing_foreign_newer_and_known(tmp_path: Path) -> None:
    file = tmp_path / "mlruns" / "mlflow.db"
    assert [finding.level for finding in doctor.check_mlflow(tmp_path)] == ["note"]
    file.parent.mkdir()
    file.write_bytes(b"something else")
    assert "is no MLflow store" in lines(doctor.check_mlflow(tmp_path))[0]
    file.unlink()
    write_revision(file, "ffffffffffff")
    assert "was written by a newer MLflow (revision ffffffffffff)" in lines(doctor.check_mlflow(tmp_path))[0]
    file.unlink()
    write_revision(file, "451aebb31d03")  # the first revision of MLflow's store
    assert [finding.level for finding in doctor.check_mlflow(tmp_path)] == ["ok"]


def write_revision(file: Path, revision: str) -> None:
    with sqlite3.connect(file) as store:
        store.execute("create table alembic_version (version_num text)")
        store.execute("insert into alembic_version values (?)", (revision,))


def test_a_project_without_remote_gets_a_note_that_says_what_to_type(toy: Path) -> None:
    found = {finding.name: finding for finding in doctor.check_versioning(toy)}
    assert found["DVC remote"].level == "note"
    assert "dvc remote add -d storage" in found["DVC remote"].text
    assert found["git"].level == "note"
    assert found["DVC"].level == "ok"


def test_a_folder_that_dvc_does_not_know_fails(tmp_path: Path) -> None:
    found = {finding.name: finding.level for finding in doctor.check_versioning(tmp_path)}
    assert found["DVC"] == "FAIL"


def test_little_disk_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "MIN_DISK_GB", 10**9)
    found = {finding.name: finding for finding in doctor.check_machine(tmp_path)}
    assert found["disk"].level == "FAIL"
    assert "1000000000 needed" in found["disk"].text


def test_weights_are_looked_for_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METALDEFECT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    assert lines(doctor.check_weights(tmp_path))[0].startswith("ok   shipped weights: teacher_pdn_")
    monkeypatch.setattr(doctor, "INSTALLED", tmp_path)
    levels = {finding.name: finding.level for finding in doctor.check_weights(tmp_path)}
    assert levels == {"shipped weights": "FAIL", "LPIPS backbone": "note"}
    (tmp_path / "vgg16.safetensors").touch()
    (tmp_path / "metaldefect" / "weights").mkdir(parents=True)
    (tmp_path / "metaldefect" / "weights" / "teacher.safetensors").touch()
    assert lines(doctor.check_weights(tmp_path)) == [
        "ok   shipped weights: teacher.safetensors",
        f"ok   LPIPS backbone: {tmp_path / 'vgg16.safetensors'}",
    ]


@pytest.mark.parametrize("place", ["hub", "own"])
def test_the_vgg_file_that_doctor_recommends_is_one_that_the_code_reads(
    place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own, hub = tmp_path / "own", tmp_path / "torch/hub/checkpoints"
    monkeypatch.setenv("METALDEFECT_WEIGHTS", str(own))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (note,) = (line for line in lines(doctor.check_weights(tmp_path)) if "LPIPS" in line)
    advice = re.search(r"put (\S+) in (\S+), or (\S+) in a folder", note)
    assert advice is not None
    assert Path(advice[2]) == hub
    file = hub / advice[1] if place == "hub" else own / advice[3]
    file.parent.mkdir(parents=True)
    save_file({"features.0.weight": torch.zeros(1)}, file)

    with monkeypatch.context() as offline:
        offline.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: pytest.fail("downloads"))
        assert provide_backbone("vgg") is None
    assert any(line.startswith("ok   LPIPS backbone: ") for line in lines(doctor.check_weights(tmp_path)))


def test_a_prefect_server_that_does_not_answer_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    (finding,) = lines(doctor.check_prefect(tmp_path))
    assert finding.startswith("FAIL Prefect server: ")
    assert f"PREFECT_API_URL=http://127.0.0.1:{port}/api does not answer" in finding


def test_a_prefect_server_that_answers_is_ok(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.handle_request).start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
        (finding,) = lines(doctor.check_prefect(tmp_path))
    assert finding.startswith("ok   Prefect server: ")


def test_a_watchdog_that_has_ended_fails_until_it_runs_again(tmp_path: Path) -> None:
    assert lines(doctor.check_watchdog(tmp_path)) == []
    watchdog = Background(tmp_path, "watchdog")
    watchdog.record.parent.mkdir()
    own = psutil.Process()
    watchdog.record.write_text(json.dumps({"pid": own.pid, "started": "another boot:1"}))
    (finding,) = lines(doctor.check_watchdog(tmp_path))
    assert finding.startswith("FAIL watchdog: it has ended")
    assert "type `metaldefect deploy`" in finding
    watchdog.record.write_text(json.dumps({"pid": own.pid, "started": birth_of(own.pid)}))
    assert lines(doctor.check_watchdog(tmp_path)) == [f"ok   watchdog: process {own.pid}"]


def test_command_exits_with_1_on_a_failure_and_never_imports_torch(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    script = (
        "import sys; from pipeline.cli import app; "
        "code = app(['doctor', '--root', sys.argv[1]], standalone_mode=False); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "FAIL DVC: " in done.stdout
    assert done.stdout.endswith(" to mend\n")


@pytest.mark.parametrize("name", ["parts#2", "parts?2", "50% parts"])
def test_a_database_is_read_whatever_its_folder_is_called(tmp_path: Path, name: str) -> None:
    file = tmp_path / name / "prefect.db"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as store, store:
        store.execute("create table alembic_version (version_num)")
        store.execute("insert into alembic_version values ('abc')")
    assert doctor.table_value(file, "alembic_version", "version_num") == "abc"
    assert [path.name for path in tmp_path.iterdir()] == [name]
