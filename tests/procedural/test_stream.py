"""The stream of metal for base models: never the same image twice, every class and look."""

from collections import Counter

import numpy as np

from metaldefect.procedural.stream import LABELS, draw_varied


def test_images_do_not_repeat_and_are_functions_of_seed_and_number() -> None:
    drawn = [draw_varied(0, number, 64) for number in range(40)]
    assert len({image.tobytes() for image, _ in drawn}) == 40
    again = draw_varied(0, 7, 64)
    assert np.array_equal(again[0], drawn[7][0])
    assert again[1] == drawn[7][1]
    assert not np.array_equal(draw_varied(1, 7, 64)[0], drawn[7][0])


def test_every_label_comes_about_equally_often() -> None:
    counts = Counter(draw_varied(3, number, 16)[1] for number in range(420))
    assert set(counts) == set(LABELS)
    assert min(counts.values()) > 35
