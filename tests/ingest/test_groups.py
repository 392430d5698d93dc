"""Near-duplicates are found through encodings, sizes and symmetries, and nothing else is."""

from __future__ import annotations

import io
from itertools import combinations

import imagehash
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from metaldefect.ingest.groups import (
    apply_symmetry,
    correlation,
    fingerprint,
    first_of_each,
    hash_pixels,
    near_duplicate_pairs,
    perceptual_hash,
)


def test_the_eight_symmetries_are_distinct_and_known():
    image = np.array([[1, 2], [3, 4]])
    assert [apply_symmetry(image, k).tolist() for k in range(8)] == [
        [[1, 2], [3, 4]],
        [[2, 4], [1, 3]],
        [[4, 3], [2, 1]],
        [[3, 1], [4, 2]],
        [[2, 1], [4, 3]],
        [[4, 2], [3, 1]],
        [[3, 4], [1, 2]],
        [[1, 3], [2, 4]],
    ]


def test_the_hash_is_imagehash_phash(texture):
    for key in range(5):
        image = texture(key, 100)
        ours = perceptual_hash(hash_pixels(image)[None])[0]
        assert ours.tobytes().hex() == str(imagehash.phash(Image.fromarray(image)))


def test_correlation_equals_numpy(texture):
    one, other = texture(1).astype(float), texture(2).astype(float)
    expected = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    assert correlation(one[None], other[None])[0] == pytest.approx(expected)
    flat = np.full((1, 64, 64), 7.0)
    assert correlation(flat, np.stack([flat[0], one])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("k", range(8))
def test_a_photograph_is_found_in_another_encoding_size_and_symmetry(texture, k):
    image = texture(7, 200)
    encoded = io.BytesIO()
    turned = Image.fromarray(np.ascontiguousarray(apply_symmetry(image, k))).resize((128, 128))
    turned.save(encoded, format="JPEG", quality=80)
    other = np.asarray(Image.open(encoded).resize((200, 200)))
    pairs = near_duplicate_pairs([fingerprint(image), fingerprint(texture(8, 200)), fingerprint(other)])
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 2)]
    assert pairs[0].same_photograph
    # the symmetry found undoes the one applied
    assert np.array_equal(apply_symmetry(apply_symmetry(image, k), pairs[0].symmetry), image)


def test_low_contrast_photographs_are_found(texture):
    image = (130 + (texture(3, 200).astype(float) - 128) / 12).astype(np.uint8)
    assert image.std() < 4
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="JPEG", quality=90)
    pairs = near_duplicate_pairs([fingerprint(image), fingerprint(np.asarray(Image.open(encoded)))])
    assert len(pairs) == 1


def test_a_shifted_cut_is_the_same_scene_and_not_the_same_photograph():
    plate = gaussian_filter(np.random.default_rng(0).normal(size=(203, 203)), 4)
    plate = ((plate - plate.min()) / np.ptp(plate) * 255).astype(np.uint8)
    pairs = near_duplicate_pairs([fingerprint(plate[:200, :200]), fingerprint(plate[1:201, 1:201])])
    assert [(pair.first, pair.second, pair.same_photograph) for pair in pairs] == [(0, 1, False)]


def test_shared_shading_alone_is_no_duplicate(texture):
    slope = np.linspace(0, 200, 200)[None, :].repeat(200, axis=0)
    images = [(slope + texture(key, 200) / 20).clip(0, 255).astype(np.uint8) for key in (1, 2)]
    assert np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1] > 0.99
    assert near_duplicate_pairs([fingerprint(image) for image in images]) == []


def test_unrelated_images_are_never_paired(texture):
    assert near_duplicate_pairs([fingerprint(texture(key, 96)) for key in range(120)]) == []


def test_groups_are_connected_components(texture):
    prints = [fingerprint(texture(key)) for key in (1, 2, 1, 3, 2, 1)]
    pairs = near_duplicate_pairs(prints)
    assert first_of_each(6, pairs).tolist() == [0, 1, 0, 3, 1, 0]
    assert [(p.first, p.second) for p in pairs] == [
        p for p in combinations(range(6), 2) if p in {(0, 2), (0, 5), (1, 4), (2, 5)}
    ]
    assert first_of_each(3, []).tolist() == [0, 1, 2]
    assert near_duplicate_pairs(prints[:1]) == []
