"""The Python examples of the README run and print what they say."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from metaldefect.images import write_png
from metaldefect.procedural.images import generate_normal_image

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for number in range(4):
        write_png(tmp_path / f"photos/{number}.png", generate_normal_image(number, 150))
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        example = doctest.DocTestParser().get_doctest(block, {}, "README.md", str(README), 0)
        assert 0 < len(example.examples) <= 5
        assert doctest.DocTestRunner().run(example).failed == 0
    assert (tmp_path / "inserted/manifest.csv").is_file()
