"""Every input file gets an output name of its own, whatever its bytes."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from metaldefect.ingest.samples import unique_names

# Names as Linux may hold them: any characters but the slash, and bytes that are not UTF-8
CHARACTERS = st.characters(exclude_characters="/\0", exclude_categories=["Cs"]) | st.sampled_from(
    ["\udcbb", "\udcae", "a", "A", "_", " "]
)


@given(st.lists(st.text(CHARACTERS, min_size=1, max_size=4), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_names_are_unique_ascii_and_ignore_case(stems: list[str]) -> None:
    names = unique_names(stems, [f"{number}/{stem}" for number, stem in enumerate(stems)])
    assert len({name.lower() for name in names}) == len(stems)
    assert all(re.fullmatch(r"[A-Za-z0-9._ -]+", name) for name in names)


def test_plain_names_stay_and_equal_ones_get_a_hash_of_their_path() -> None:
    names = unique_names(["x", "a_b", "X", "größe"], ["1/x", "a_b", "2/X", "größe"])
    assert names[1] == "a_b"
    assert [name.rpartition("-")[0] for name in (names[0], *names[2:])] == ["x", "X", "gr__e"]
