"""The teachers that `benchmarks.tiles` compares: shipped, random, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from metaldefect.artifacts import sha256_file
from metaldefect.efficientad.config import Size
from metaldefect.efficientad.teacher_weights import load_teacher, shipped_teacher
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork
from metaldefect.errors import UserError

RANDOM, SHIPPED = "random", "shipped"


@dataclass(frozen=True)
class Teacher:
    """A teacher's name and the path of its weights; None for a random teacher."""

    name: str
    path: Path | None

    def load(self, size: Size, padding: bool, seed: int) -> PatchDescriptionNetwork:
        """The frozen network.

        Raises:
            UserError: the file holds a teacher of another size.
        """
        if self.path is None:
            return random_teacher(size, padding, seed)
        teacher = load_teacher(self.path, padding)
        if teacher.size != size:
            raise UserError(f"{self.path} holds a PDN-{teacher.size} teacher, expected PDN-{size}")
        return teacher

    def fingerprint(self) -> str:
        """Identifies the teacher's weights in the settings that a result depends on."""
        return "random" if self.path is None else sha256_file(self.path)


def random_teacher(size: Size, padding: bool, seed: int) -> PatchDescriptionNetwork:
    """An untrained teacher, with He's initialisation so that the signal keeps its scale across layers.

    Its features are normalised by their mean and standard deviation, like those of any teacher.
    """
    torch.manual_seed(seed)
    teacher = PatchDescriptionNetwork(size, padding=padding)
    for module in teacher.convolutions:
        assert isinstance(module, torch.nn.Conv2d)
        assert module.bias is not None
        torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        torch.nn.init.zeros_(module.bias)
    return teacher.eval().requires_grad_(False)


def parse_teachers(words: Sequence[str], size: Size) -> list[Teacher]:
    """Parse words of the form `shipped`, `random` or `NAME=PATH`.

    Raises:
        UserError: a file does not exist, or a word has none of these forms.
    """
    teachers = []
    for word in words:
        name, _, text = word.partition("=")
        if text:
            path: Path | None = Path(text)
        elif name == SHIPPED:
            path = shipped_teacher(size)
        elif name == RANDOM:
            path = None
        else:
            raise UserError(f"teacher {word!r}: expected {SHIPPED}, {RANDOM} or NAME=PATH")
        if path is not None and not path.is_file():
            raise UserError(f"{path} does not exist: distil it, or leave out the teacher {name!r}")
        teachers.append(Teacher(name, path))
    return teachers
