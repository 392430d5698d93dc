"""A smaller image size where the minutes of `metaldefect train --minutes` do not allow the chosen one."""

from __future__ import annotations

from pathlib import Path

from metaldefect.artifacts import read_json, write_json
from metaldefect.commands.budget import Budget, seconds_per_image
from metaldefect.efficientad.size_choice import SizeChoice, candidates, in_words
from metaldefect.efficientad.torch_model import PatchDescriptionNetwork

KEPT = "size_in_time.json"


def size_in_time(
    choice: SizeChoice, passes: int, test: int, teacher: PatchDescriptionNetwork, budget: Budget, work: Path
) -> SizeChoice:
    """The chosen size, or the largest smaller one at which scoring and export leave time to train.

    On a slow machine, or with many test images, scoring at the chosen size can take longer than all minutes.
    `work` keeps the decision for a run that goes on after a kill.

    Args:
        choice: by painted defects.
        passes: images to score outside the training, see `passes_around_training`.
        test: images that the memory bank scores besides.
        teacher: whose networks are timed.
        budget: the minutes.
        work: an existing folder.
    """
    if budget.limit is None:
        return choice
    parts = {"chosen": in_words(choice.size), "minutes": budget.limit / 60, "passes": passes}
    path, sizes = work / KEPT, candidates(choice.size)
    kept = read_json(path) if path.is_file() else {}
    if kept.get("parts") == parts:
        size = sizes[kept["number"]]
    else:
        allowed = (
            n for n, one in enumerate(sizes) if budget.allows(passes + test, seconds_per_image(teacher, one))
        )
        number = next(allowed, len(sizes) - 1)
        write_json(path, {"parts": parts, "number": number})
        size = sizes[number]
    if size == choice.size:
        return choice
    why = (
        f"image size: {in_words(size)} instead of {in_words(choice.size)}: scoring {test} test images and the"
        f" export would leave too few of {budget.limit / 60:g} minutes to train; more --minutes, or"
        " --image-size, keep the larger one"
    )
    print(why, flush=True)
    return choice._replace(size=size, why=why)
