"""CI examples and systemd units call what exists, and the comparison in CI compares."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from pipeline.champion import CHAMPION
from pipeline.cli import app
from pipeline.params import load_params
from tests.conftest import LONGEST, may_skip

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SERVICES = sorted((ROOT / "deploy/systemd").glob("*.service"))
UNITS = [*SERVICES, *(ROOT / "deploy/systemd").glob("*.timer")]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_what_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    jobs = yaml.safe_load(path.read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands
    for command in commands:
        program, *words = command.split()
        if program == "make":
            assert set(words) <= targets, command
        elif program.startswith("."):
            file = f"{words[1].replace('.', '/')}.py" if words[0] == "-m" else program
            assert (ROOT / file).is_file(), command
    for job in jobs.values():
        assert job["timeout-minutes"] <= 120


def test_all_tests_run_every_night() -> None:
    text = (ROOT / ".github/workflows/nightly.yml").read_text()
    workflow = yaml.safe_load(text.replace("on:", "when:", 1))  # YAML 1.1 reads `on` as true
    (schedule,) = workflow["when"]["schedule"]
    minute, hour, *days = schedule["cron"].split()
    assert (minute.isdigit(), hour.isdigit(), days) == (True, True, ["*", "*", "*"])
    commands = [step.get("run") for step in workflow["jobs"]["tests"]["steps"]]
    assert commands.index("chromium --version") < commands.index("make test")


def test_the_files_that_start_first_exist() -> None:
    assert [name for name in LONGEST if not (ROOT / name).is_file()] == []


def test_the_comparison_names_what_a_change_did(
    toy: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (toy / "dvc.yaml").write_text((toy / "dvc.yaml").read_text().replace("sleep 1 && ", ""))
    repro = [sys.executable, "-m", "dvc", "repro", "-q"]
    subprocess.run(repro, cwd=toy, env=environment, check=True)

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments]
        done = subprocess.run(command, cwd=toy, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("add", "--all")
    git("commit", "--quiet", "--message", "base")
    base = git("rev-parse", "HEAD")
    script = toy / "make.py"
    script.write_text(script.read_text().replace("12345", "12346"))
    git("commit", "--quiet", "--all", "--message", "change")

    def compare(start: str) -> str:
        subprocess.run(
            [str(ROOT / ".github/compare_metrics.sh"), start, str(tmp_path / "metrics.md")],
            cwd=toy,
            env=environment | {"REPRO": " ".join(repro)},
            check=True,
        )
        return (tmp_path / "metrics.md").read_text()

    rows = [re.split(r" *\| *", line) for line in compare(base).splitlines() if "quick.json" in line]
    assert [row[2:6] for row in rows] == [["total", "12345", "12346", "1"]]
    assert git("log", "-1", "--format=%s") == "change"


@pytest.mark.parametrize(("workflow", "tests"), [("checks", "make test-fast"), ("nightly", "make test")])
def test_ci_builds_the_cpp_runtime_before_it_tests(workflow: str, tests: str) -> None:
    jobs = yaml.safe_load((ROOT / f".github/workflows/{workflow}.yml").read_text())["jobs"]
    commands = [step.get("run", "") for step in jobs["tests"]["steps"]]
    (install,) = (command for command in commands if "apt-get install" in command)
    assert commands.index(install) < commands.index(tests)
    assert commands.index("chromium --version") < commands.index(tests)  # browser tests find it
    stated = re.search(
        r"Debian packages: (.*)", (ROOT / "deploy/cpp/CMakeLists.txt").read_text(encoding="utf-8")
    )
    assert stated is not None
    assert set(stated[1].split()) == {"cmake", "g++", "libstb-dev", "nlohmann-json3-dev", "libssl-dev"}
    assert set(stated[1].split()) <= set(install.split())


@pytest.mark.parametrize(
    ("missing", "ci", "skipped"), [(["g++"], "", True), (["g++"], "true", False), ([], "", False)]
)
def test_tests_without_a_tool_fail_in_ci_where_they_would_be_skipped(
    missing: list[str], ci: str, skipped: bool
) -> None:
    assert may_skip(missing, {"GITHUB_ACTIONS": ci}) is skipped


BROWSER_TEST = """\
from tests import conftest

conftest.CHROMIUM = None
browser = conftest.browser


def test_page(browser):
    pass
"""


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_a_browser_is_missed_in_ci_and_only_there(tmp_path: Path, ci: str, outcome: str) -> None:
    (tmp_path / "test_page.py").write_text(BROWSER_TEST)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"GITHUB_ACTIONS": ci, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert outcome in done.stdout, done.stdout


@pytest.mark.parametrize("unit", SERVICES, ids=lambda path: path.name)
def test_units_call_commands_with_options_that_exist(unit: Path) -> None:
    text = unit.read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    program, *words = line.split()
    assert program.startswith("/opt/metaldefect/.venv/bin/")
    if program.endswith("/metaldefect"):
        command = get_command(app).commands[words[0]]  # type: ignore[attr-defined]
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
    assert "EnvironmentFile=/etc/metaldefect.env" in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        # the programs lie where the plant installs them, not here
        text = re.sub(r"^(Exec\w+)=.*$", r"\1=/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    units = [str(tmp_path / unit.name) for unit in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert [line for line in done.stderr.splitlines() if "metaldefect-" in line] == []


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("deploy/systemd/metaldefect-service.service", r"^ExecStart=.*/(metaldefect serve .*)$"),
        ("pipeline/project/README.md.j2", r"^(metaldefect serve .*)$"),
    ],
)
def test_the_service_follows_the_champion_in_the_precision_that_the_gate_compares(
    file: str, command: str
) -> None:
    (line,) = re.findall(command, (ROOT / file).read_text(), re.MULTILINE)
    words = line.split()
    known = get_command(app).commands["serve"].params  # type: ignore[attr-defined]
    assert {word for word in words if word.startswith("--")} <= {name for one in known for name in one.opts}
    assert {"--log", "--keep-frames"} <= set(words)
    assert "--follow" in words  # else a promoted detector waits for a restart
    assert words[words.index("--model") + 1] == str(CHAMPION)
    precision = load_params(ROOT / "params.yaml").gate.precision
    assert words[words.index("--precision") + 1] == precision


def test_only_the_worker_itself_gets_systemds_sigterm() -> None:
    # systemd's default tells stages and flow runs at the same moment, and nobody reports the run's state
    text = (ROOT / "deploy/systemd/metaldefect-worker.service").read_text()
    assert "KillMode=mixed" in text
    assert int(re.search(r"TimeoutStopSec=(\d+)", text)[1]) >= 60 + 20  # type: ignore[index]
