"""Local copies are taken whole or not at all, and nothing that a tar holds lands elsewhere."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from metaldefect.errors import UserError
from metaldefect.ingest import raw_datasets
from metaldefect.ingest.adapters import read_dataset
from metaldefect.ingest.raw_datasets import RawDataset, take_local_copies, unpack, verify

TINY = RawDataset("X-SDD", {".jpg": 2}, "none", "nowhere")
SHARED = Path(__file__).resolve().parents[2] / "../shared/data"


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root, where X-SDD is whole with two JPEG files."""
    monkeypatch.setattr(raw_datasets, "RAW_DATASETS", (TINY,))
    return tmp_path / "raw"


def write_copy(folder: Path, files: int = 2) -> Path:
    for k in range(files):
        path = folder / "datas/red iron" / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image %d" % k)
    return folder


def write_tar(path: Path, folder: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        tar.add(folder, folder.name)
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


WHOLE = ["X-SDD/datas/red iron/0.jpg", "X-SDD/datas/red iron/1.jpg"]


def test_a_folder_of_tars(raw, tmp_path):
    write_tar(tmp_path / "copies/any name.tar", write_copy(tmp_path / "X-SDD"))
    write_tar(tmp_path / "copies/other.tar", write_copy(tmp_path / "something"))
    (tmp_path / "copies/folder").mkdir()
    taken, unknown = take_local_copies(tmp_path / "copies", raw)
    assert (taken, unknown) == ([TINY], ["folder", "other.tar"])
    assert names(raw) == WHOLE


@pytest.mark.parametrize("inner", ["", "X-SDD", "tar"])
def test_a_folder_of_folders_a_dataset_or_a_tar(raw, tmp_path, inner):
    folder = write_copy(tmp_path / "copies/X-SDD")
    source = write_tar(tmp_path / "x.tar", folder) if inner == "tar" else tmp_path / "copies" / inner
    assert take_local_copies(source, raw)[0] == [TINY]
    assert names(raw) == WHOLE


def test_half_a_copy_leaves_the_old_one(raw, tmp_path):
    write_copy(raw / "X-SDD")
    write_copy(tmp_path / "copies/X-SDD", files=3)
    with pytest.raises(UserError, match=r"no whole copy of X-SDD: 3 \.jpg files, expected 2"):
        take_local_copies(tmp_path / "copies", raw)
    assert names(raw) == WHOLE


def test_nothing_to_take_is_an_error(raw, tmp_path):
    with pytest.raises(UserError, match="nothing does not exist: give a folder of tars"):
        take_local_copies(tmp_path / "nothing", raw)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds neither a folder nor a tar of one of X-SDD"):
        take_local_copies(tmp_path / "empty", raw)


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    "info",
    [
        member("X-SDD/../../escaped.jpg"),
        member("X-SDD/link.jpg", type=tarfile.SYMTYPE, linkname="../../escaped.jpg"),
        member("X-SDD/link.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("X-SDD/hard.jpg", type=tarfile.LNKTYPE, linkname="../escaped.jpg"),
        member("X-SDD/device.jpg", type=tarfile.CHRTYPE),
    ],
)
def test_unsafe_tars_are_refused(raw, tmp_path, info):
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        tar.addfile(info)
    with pytest.raises(UserError, match=r"bad\.tar is unsafe and was not taken"):
        take_local_copies(tmp_path / "bad.tar", raw)
    assert names(raw) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.tar", "raw"]


def test_an_absolute_name_lands_inside(raw, tmp_path):
    info = member(f"{tmp_path}/escaped.jpg", size=1)
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        tar.addfile(info, io.BytesIO(b"x"))
    (tmp_path / "target").mkdir()
    unpack(tmp_path / "bad.tar", tmp_path / "target")
    assert not (tmp_path / "escaped.jpg").exists()


def break_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


@pytest.mark.parametrize("damage", [break_off, lambda p: p.write_text("no tar")])
def test_broken_tars_are_refused(raw, tmp_path, damage: Callable[[Path], None]):
    tar = write_tar(tmp_path / "x.tar", write_copy(tmp_path / "X-SDD"))
    damage(tar)
    with pytest.raises(UserError, match=r"x\.tar cannot be unpacked|no whole copy|holds neither"):
        take_local_copies(tar, raw)
    assert names(raw) == []


def test_a_tar_larger_than_the_disk_is_refused_before_it_is_unpacked(raw, tmp_path, monkeypatch):
    tar = write_tar(tmp_path / "x.tar", write_copy(tmp_path / "X-SDD"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 3))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"x\.tar needs 14 bytes on the disk of .*, which has 3 free"):
        take_local_copies(tar, raw)


def test_links_in_a_folder(raw, tmp_path):
    folder = write_copy(tmp_path / "copies/X-SDD", files=1)
    link = folder / "datas/red iron/1.jpg"
    link.symlink_to(folder / "datas/red iron/0.jpg")
    take_local_copies(tmp_path / "copies", raw)
    copied = raw / "X-SDD/datas/red iron/1.jpg"
    assert (copied.is_symlink(), copied.read_bytes()) == (False, b"image 0")
    link.unlink()
    link.symlink_to("/etc/passwd")
    with pytest.raises(UserError, match=r"1\.jpg is a link to /etc/passwd: put the file itself there"):
        take_local_copies(tmp_path / "copies", raw)
    shutil.rmtree(raw / "X-SDD")
    (raw / "X-SDD").symlink_to(folder)
    with pytest.raises(UserError, match="is a link: remove it to put a copy there"):
        take_local_copies(tmp_path / "copies", raw)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real datasets are not here")
def test_neu_det_reads_alike_in_the_layout_of_its_repository(tmp_path):
    unpack(SHARED / "neu_det.tar", tmp_path)
    kaggle = tmp_path / "NEU-DET"
    for dataset in raw_datasets.RAW_DATASETS:
        if dataset.folder == "NEU-DET":
            verify(dataset, kaggle)
    flat = tmp_path / "flat/NEU-DET"
    held = {f"{c}_{k}" for c in ("crazing", "patches") for k in (18, 151, 240, 274)}
    for path in [*kaggle.rglob("*.jpg"), *kaggle.rglob("*.xml")]:
        kind = "IMAGES" if path.suffix == ".jpg" else "ANNOTATIONS"
        if path.stem in held:
            kind = "Validation_" + kind.capitalize()
        (flat / kind).mkdir(parents=True, exist_ok=True)
        path.rename(flat / kind / path.name)
    samples, files = read_dataset("neu_det", flat)
    counts = Counter((sample.source_split, sample.source_label) for sample in samples)
    assert sorted(counts.values()) == [60] * 6 + [240] * 6
    assert sum(count for (split, _), count in counts.items() if split == "train") == 1440
    assert sum(len(sample.boxes) for sample in samples) == 4189
    assert files.rejected == []
