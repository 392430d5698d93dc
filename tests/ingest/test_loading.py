"""Loaders: training sees the train split only, and a limit is spread over classes and photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metaldefect.errors import UserError
from metaldefect.ingest.loading import held_out_rows, split_rows, spread_over_classes, training_rows
from metaldefect.maskgit.token_data import TokenGrids


def write(folder: Path, splits: list[str], labels: list[str] | None = None) -> Path:
    count = len(splits)
    table = pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(count)],
            "label": labels or ["a"] * count,
            "source": "s",
            "split": splits,
            "group": [str(i) for i in range(count)],
            "sha256": [f"{i:03d}" for i in range(count)],
        }
    )
    table.to_parquet(folder / "samples.parquet")
    np.save(folder / "tokens.npy", np.arange(count, dtype=np.uint16).reshape(count, 1, 1))
    return folder


@pytest.mark.parametrize("foreign", ["validation", "test"])
def test_training_refuses_rows_of_another_split(tmp_path: Path, foreign: str) -> None:
    folder = write(tmp_path, ["train", foreign, "train"])
    message = rf"1 of 3 rows are not of the train split, such as 1\.png \({foreign}\)"
    with pytest.raises(UserError, match=message):
        training_rows(folder)
    with pytest.raises(UserError, match=message):
        TokenGrids.training(folder, ["a"])


def test_training_takes_a_table_of_train_rows(tmp_path: Path) -> None:
    folder = write(tmp_path, ["train", "train"])
    assert training_rows(folder)["path"].tolist() == ["0.png", "1.png"]
    assert TokenGrids.training(folder, ["a"]).tokens.ravel().tolist() == [0, 1]


def test_an_empty_or_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"samples\.parquet does not exist"):
        training_rows(tmp_path)
    with pytest.raises(UserError, match="has no rows to learn from"):
        training_rows(write(tmp_path, []))


def test_held_out_rows_are_of_one_split(tmp_path: Path) -> None:
    folder = write(tmp_path, ["train", "validation", "test", "test"])
    assert held_out_rows(folder, "validation")["path"].tolist() == ["1.png"]
    assert held_out_rows(folder, "test")["path"].tolist() == ["2.png", "3.png"]
    assert TokenGrids.held_out(folder, "test", ["a"]).tokens.ravel().tolist() == [2, 3]
    assert split_rows(folder, "train")["path"].tolist() == ["0.png"]
    with pytest.raises(ValueError, match="'train' is not a held-out split"):
        held_out_rows(folder, "train")
    with pytest.raises(ValueError, match="'train' is not a held-out split"):
        TokenGrids.held_out(folder, "train", ["a"])


def test_a_split_without_rows_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, ["train"])
    for load in (held_out_rows, split_rows):
        with pytest.raises(UserError, match="has no row in the test split"):
            load(folder, "test")


def test_a_limit_is_spread_over_classes_then_groups() -> None:
    table = pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(8)],
            "sha256": [str(i) for i in range(8)],
            # Sorted by label, as the merged table is: the first rows are one class
            "label": ["a"] * 5 + ["b"] * 2 + ["c"],
            # The first three images of class a are one photograph
            "group": ["p", "p", "p", "q", "r", "s", "t", "u"],
        }
    )
    chosen = spread_over_classes(table, 6)
    assert chosen["label"].tolist() == ["a", "b", "c", "a", "b", "a"]
    assert chosen.loc[chosen["label"] == "a", "group"].tolist() == ["p", "q", "r"]
    assert list(chosen.columns) == list(table.columns)
    assert len(spread_over_classes(table, 100)) == 8


def test_labels_that_are_no_classes_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path, ["train", "train"], ["a", "z"])
    with pytest.raises(UserError, match="labels that are not classes: z"):
        TokenGrids.training(folder, ["a"])
