"""The reference for drift: what scores, maps and grey levels of normal validation images look like."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metaldefect.artifacts import atomic_file
from metaldefect.deploy.bundle import check_files, read_metadata, write_metadata
from metaldefect.deploy.prediction_log import OBSERVED, observe
from metaldefect.errors import UserError

REFERENCE = "reference.parquet"
SCHEMA = pa.schema([("precision", pa.string()), *OBSERVED])


def add_reference(folder: Path, images: Iterable[NDArray[Any]]) -> None:
    """Score normal images with every precision of an exported bundle, and put the rows into it.

    Args:
        folder: the bundle; its metadata then covers the new file too, and a signature becomes invalid.
        images: normal images that the detector was not trained on, at the size that a camera delivers:
            resizing would change their spread of grey levels.
    """
    from metaldefect.deploy.runtime import Detector  # imports torch, which readers do not need

    frames = list(images)
    rows = []
    for precision in read_metadata(folder).precisions:
        detector = Detector.load(folder, precision, self_test=False)
        rows += [
            {"precision": precision, **observe(frame, detection)}
            for frame, detection in zip(frames, detector.stream(frames), strict=True)
        ]
    with atomic_file(folder / REFERENCE) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary)
    write_metadata(folder, read_metadata(folder).model_dump(exclude={"sha256"}))


def read_reference(folder: Path, precision: str) -> pd.DataFrame:
    """The reference rows of one precision.

    Raises:
        UserError: the bundle has none, or its file is not the one that was exported.
    """
    metadata = read_metadata(folder)
    if REFERENCE not in metadata.sha256:
        raise UserError(
            f"{folder} holds no reference for drift: export the detector again (`dvc repro export_openvino`,"
            " or `metaldefect train`)"
        )
    check_files(folder, metadata, [REFERENCE])
    table = pq.read_table(folder / REFERENCE, schema=SCHEMA).to_pandas()
    return table[table["precision"] == precision].reset_index(drop=True)
