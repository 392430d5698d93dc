"""The procedural generator: what it promises about pixels, masks and random keys."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from metaldefect.errors import UserError
from metaldefect.procedural.anomalies import ANOMALIES
from metaldefect.procedural.defects import DEFECT_CLASSES, keep_islands, surround
from metaldefect.procedural.images import (
    generate_anomalous_image,
    generate_defect_image,
    generate_normal_image,
    generate_plate_image,
    keyed_generator,
)
from metaldefect.procedural.plates import PLATE_CLASSES
from metaldefect.procedural.textures import draw_surface, gaussian_field, to_grey

IMAGES = 12
GENERATORS = {
    **{label: (generate_defect_image, label) for label in DEFECT_CLASSES},
    **{label: (generate_plate_image, label) for label in PLATE_CLASSES},
    **{f"any {kind}": (generate_anomalous_image, kind) for kind in ANOMALIES},
}


def draw(name: str, index: int, size: int = 200) -> tuple[np.ndarray, np.ndarray]:
    generate, label = GENERATORS[name]
    return generate(label, keyed_generator(1, name, index), size)


def test_the_six_classes_are_those_of_neu_det() -> None:
    assert sorted(DEFECT_CLASSES) == [
        "crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches",
    ]  # fmt: skip
    assert sorted(ANOMALIES) == ["contamination", "misplaced_object", "scratch"]


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("size", [16, 131, 256])
def test_image_and_mask_have_the_size_asked_for(name: str, size: int) -> None:
    image, mask = draw(name, 0, size)
    assert image.shape == mask.shape == (size, size)
    assert image.dtype == np.uint8
    assert mask.dtype == np.bool_
    assert mask.any()
    assert not mask.all()


@pytest.mark.parametrize("name", GENERATORS)
def test_same_key_same_image_and_another_key_another_image(name: str) -> None:
    (first, mask), (again, mask_again), (other, _) = draw(name, 4), draw(name, 4), draw(name, 5)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(mask, mask_again)
    assert np.mean(first != other) > 0.5


def test_keys_do_not_run_into_each_other() -> None:
    draws = {
        float(keyed_generator(*key).random())
        for key in [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", 1, 1), (0, "a", 11)]
    }
    assert len(draws) == 6


@pytest.mark.parametrize("label", sorted(set(DEFECT_CLASSES) - {"patches"}))  # stained metal is lit anew
def test_the_mask_is_exact(label: str) -> None:
    """The metal underneath is known: it changes under the mask and nowhere else."""
    for index in range(4):
        bare = to_grey(draw_surface(DEFECT_CLASSES[label].finish, keyed_generator(1, label, index), 200))
        image, mask = draw(label, index)
        change = np.abs(image.astype(int) - bare)
        beyond = ~ndimage.binary_dilation(mask, iterations=4)
        assert np.mean(change[beyond] > 8) < 0.001
        assert change[mask].mean() > 8


@pytest.mark.parametrize(
    ("label", "mean", "deviation"),
    [  # 5 % to 95 % of the photographs in NEU-DET
        ("crazing", (87, 172), (22, 38)),
        ("inclusion", (69, 139), (4, 19)),
        ("patches", (50, 197), (28, 71)),
        ("pitted_surface", (84, 240), (14, 42)),
        ("rolled-in_scale", (80, 152), (12, 23)),
        ("scratches", (52, 144), (8, 38)),
        # X-SDD: about 130, deviation 3 to 8 (red iron, which merges with nothing, up to 12)
        ("iron sheet ash", (120, 140), (3, 9)),
        ("oxide scale of plate system", (120, 140), (3, 9)),
        ("surface scratch", (120, 140), (3, 9)),
        ("red iron", (115, 140), (3, 12)),
    ],
)
def test_grey_levels_are_those_of_the_photographs(
    label: str, mean: tuple[int, int], deviation: tuple[int, int]
) -> None:
    images = np.stack([draw(label, index)[0] for index in range(IMAGES)]).astype(float)
    assert mean[0] < np.median(images.mean((1, 2))) < mean[1]
    assert deviation[0] < np.median(images.std((1, 2))) < deviation[1]


@pytest.mark.parametrize(
    ("label", "sign", "contrast"),
    [
        ("inclusion", -1, 12),
        ("patches", -1, 40),
        ("pitted_surface", -1, 5),
        ("rolled-in_scale", -1, 8),
        ("crazing", -1, 5),
        ("scratches", 1, 25),
        ("iron sheet ash", -1, 20),
        ("surface scratch", -1, 15),
    ],
)
def test_defects_are_darker_than_the_metal_and_scratches_brighter(
    label: str, sign: int, contrast: float
) -> None:
    differences = []
    for index in range(IMAGES):
        image, mask = draw(label, index)
        around = ndimage.binary_dilation(mask, iterations=25) & ~ndimage.binary_dilation(mask, iterations=3)
        differences.append(image[mask].mean() - image[around].mean())
    assert sign * np.median(differences) > contrast


def test_classes_are_told_apart_by_four_plain_numbers() -> None:
    """Leave one out, nearest neighbour: level, contrast, coarse contrast and direction of the texture."""
    labels, rows = [], []
    for label in DEFECT_CLASSES:
        for index in range(IMAGES):
            image = draw(label, index)[0].astype(float)
            coarse = ndimage.gaussian_filter(image, 5)
            across, down = np.abs(np.diff(image, axis=1)).mean(), np.abs(np.diff(image, axis=0)).mean()
            rows.append(
                [image.mean() / 30, np.log(image.std()), np.log(coarse.std()), 3 * np.log(across / down)]
            )
            rows[-1].append(np.log(across + down))
            labels.append(label)
    distance = np.linalg.norm(np.array(rows)[:, None] - np.array(rows)[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    right = np.array(labels)[distance.argmin(axis=1)] == np.array(labels)
    assert right.mean() >= 0.85


def test_the_same_metal_at_two_sizes_covers_as_much() -> None:
    for label in ("patches", "pitted_surface", "rolled-in_scale"):
        share = [np.mean([draw(label, k, size)[1].mean() for k in range(IMAGES)]) for size in (128, 256)]
        assert share[0] / share[1] == pytest.approx(1.0, abs=0.3)


def test_normal_images_are_drawn_from_a_seed_or_a_generator() -> None:
    from_seed = generate_normal_image(5, 64)
    np.testing.assert_array_equal(from_seed, generate_normal_image(np.random.default_rng(5), 64))
    assert from_seed.shape == (64, 64)
    assert from_seed.dtype == np.uint8
    levels = {finish: generate_normal_image(5, 64, finish).mean() for finish in ("smooth", "rough", "bright")}
    assert levels["smooth"] < levels["rough"] < levels["bright"]


def test_field_has_unit_deviation_and_the_correlation_asked_for() -> None:
    field = gaussian_field(np.random.default_rng(0), 200, along=8, across=2, angle=90)
    assert field.mean() == pytest.approx(0, abs=1e-5)
    assert field.std() == pytest.approx(1, abs=1e-5)
    # white noise blurred with deviation s correlates as exp(-d^2 / 4 s^2)
    down = np.mean(field * np.roll(field, 8, axis=0))
    across = np.mean(field * np.roll(field, 2, axis=1))
    assert down == pytest.approx(np.exp(-1 / 4), abs=0.06)
    assert across == pytest.approx(np.exp(-1 / 4), abs=0.06)


def test_specks_and_near_misses_are_pushed_far_below_zero() -> None:
    level = np.full((200, 200), -0.1, np.float32)
    level[10:12, 10:12] = 1.0  # 4 pixels
    level[50:60, 50:60] = 1.0  # 100 pixels
    kept = keep_islands(level, area=5, margin=3)
    assert (kept > 0).sum() == 100
    assert kept[10, 10] == kept[150, 150] == -10
    assert kept[55, 62] == pytest.approx(-0.1)  # the soft edge of the island
    assert kept[55, 63] == -10


def test_surround_fills_a_swarm_and_keeps_a_lone_mark() -> None:
    marks = np.zeros((200, 200), bool)
    marks[100:140:4, 100:140:4] = True
    marks[20, 20] = True
    area = surround(marks, radius=5, share=0.05)
    assert area[110:130, 110:130].all()
    assert area[10:30, 10:30].sum() == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: generate_defect_image("rust", np.random.default_rng(0), 64),
            "unknown defect class 'rust'.*crazing",
        ),
        (
            lambda: generate_plate_image("rust", np.random.default_rng(0), 64),
            "unknown X-SDD class 'rust'.*red iron",
        ),
        (
            lambda: generate_anomalous_image("rust", np.random.default_rng(0), 64),
            "unknown kind .*misplaced_object",
        ),
        (lambda: generate_normal_image(0, 15), "image size 15 is too small: at least 16"),
        (lambda: generate_normal_image(0, 64, "shiny"), "unknown finish 'shiny'.*smooth, rough"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments_are_named(call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()
