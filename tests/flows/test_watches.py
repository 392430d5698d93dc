"""What a watching flow found is told, also if the run that found it dies before it tells."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import watch_drift as drift
from flows import watch_inbox as inbox
from pipeline.inbox import Intake, note_untold
from tests.drifting_line import Line


class World:
    """What people and automations receive; `failing` raises once."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.failing: str | None = None

    def receive(self, name: str, text: str) -> None:
        if self.failing == name:
            self.failing = None
            raise ConnectionError(f"{name} is away")
        self.told.append(text)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    def notify(title: str, *_arguments: object) -> None:
        world.receive("notify", title)

    def emit(event: str, **_options: object) -> None:
        world.receive("event", event)

    def artifact(key: str, **_options: object) -> None:
        world.receive("artifact", f"artifact {key}")

    for module in (drift, inbox):
        monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("test"))
        monkeypatch.setattr(module, "notify", notify)
        monkeypatch.setattr(module, "emit_event", emit)
    for name in ("create_markdown_artifact", "create_image_artifact"):
        monkeypatch.setattr(drift, name, artifact)
    monkeypatch.setattr(inbox, "create_table_artifact", artifact)
    return world


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Intake]]:
    """What the next looks into the inbox do."""
    results: list[Intake] = []

    def look(folder: Path, _settle: float) -> Intake:
        intake = results.pop(0)
        note_untold(folder, intake.added, intake.refused)
        return intake

    monkeypatch.setattr(inbox, "empty_inbox", look)
    yield results
    assert results == []


INTAKE = Intake(["data/raw/good/a.png"], [("loose.png", "no class")])
REFUSED, ADDED = "1 files from the inbox were refused", "data.new"


def look_into_inbox(root: Path) -> Any:
    return inbox.watch_inbox.fn(str(root))


@pytest.mark.parametrize("failing", ["notify", "event"])
def test_new_images_are_told_by_the_next_look(
    tmp_path: Path, world: World, looks: list[Intake], failing: str
) -> None:
    looks += [INTAKE, Intake(waiting=2), Intake()]
    world.failing = failing
    with pytest.raises(ConnectionError):
        look_into_inbox(tmp_path)
    world.told.clear()
    assert look_into_inbox(tmp_path).message == "1 images added, 1 refused, 2 still arriving"
    assert world.told == [REFUSED, ADDED, "artifact refused"]
    assert look_into_inbox(tmp_path).name == "Empty"
    assert len(world.told) == 3


def test_a_failing_artifact_keeps_new_images_from_nobody(
    tmp_path: Path, world: World, looks: list[Intake]
) -> None:
    looks += [INTAKE, Intake()]
    world.failing = "artifact"
    with pytest.raises(ConnectionError):
        look_into_inbox(tmp_path)
    assert world.told == [REFUSED, ADDED]
    assert look_into_inbox(tmp_path).name == "Empty"
    assert world.told == [REFUSED, ADDED]


def look_for_drift(root: Path) -> Any:
    return drift.watch_drift.fn(str(root), min_rows=40, max_rows=80)


@pytest.mark.parametrize("failing", ["notify", "event", "artifact"])
def test_drift_is_told_once_also_if_the_first_run_dies(tmp_path: Path, world: World, failing: str) -> None:
    Line(tmp_path).runs(60, brighter=15)
    world.failing = failing
    with pytest.raises(ConnectionError):
        look_for_drift(tmp_path)
    if failing == "event":
        assert world.told == ["drift"]
        world.told.clear()
    for _ in range(2):
        assert look_for_drift(tmp_path).name == "Cooling"
    assert world.told == ["drift", "drift.detected"]
