"""The report's page: what it shows, what it survives, and that it needs nothing from outside."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from metaldefect.errors import UserError
from metaldefect.images import write_png
from pipeline.params import Augment, Data, Params, Report
from pipeline.report.facts import Facts
from pipeline.report.figures import panels, read_columns, thinned
from pipeline.report.graph import dependencies, draw_graph, layers, layout, reduced, stage_entries
from pipeline.report.page import render_report, within
from pipeline.report.tables import tables

PIPELINE = """\
stages:
  sample:
    cmd: python -m stages.sample
    outs: [data/sample]
  merge:
    cmd: python -m stages.merge
    deps: ["${data.root}", stages/merge.py]
    outs: [data/merged]
    metrics:
      - metrics/merge.json: {cache: false}
  augment:
    cmd: python -m stages.augment
    deps: [data/merged]
    outs: [data/augmented]
  finetune_vq:
    cmd: python -m stages.finetune_vq && echo "<done>"
    deps: [data/augmented, data/merged/images]
    outs: [models/vq]
  evaluate_vq:
    cmd: python -m stages.evaluate_vq
    deps: [models/vq]
    outs: [plots/evaluate_vq]
  distill_teacher:
    cmd: python -m stages.distill_teacher
    deps: [data/merged]
    outs: [models/teacher]
  train_efficientad:
    cmd: python -m stages.train_efficientad
    deps: [models/teacher, models/vq]
    outs: [models/efficientad]
  report:
    cmd: python -m stages.report
    deps: [models/efficientad, metrics]
    outs: [reports/index.html]
"""


FACTS = Facts("2026-11-26 03:11 UTC", "7e62c17f2d-dirty", "cpu", "two cores", "abc.dir", procedural=True)


def rendered(project: Path, params: Params) -> str:
    """The page without the chart library."""
    text = render_report(project, params, FACTS)
    page, _, library = text.partition("</footer>")
    assert "Plotly" in library
    return f"{page}</footer></body></html>"


@pytest.fixture
def params() -> Params:
    return Params.model_construct(
        seed=1,
        data=Data(root=Path("data/sample"), channels=1, classes=["crazing", "patches"]),
        augment=Augment(png_level=1, photometric=False),
        report=Report(title="Steel & <b>co</b>"),
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    write(tmp_path, "merge", {"total": 2659, "per_class": {"crazing": 240, "rolled-in_scale": 303}})
    measured = {"ssim": {"mean": 0.4123, "low": 0.401, "high": 0.42}, "lpips": 0.41}
    after = {"ssim": {"mean": 0.5612}, "lpips": 0.302, "rkid": 0.25}
    write(tmp_path, "evaluate_vq", {"before": measured | {"rkid": 0.75}, "after": after})
    folder = tmp_path / "plots" / "evaluate_vq"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((20, 30), 128, np.uint8)).save(folder / "worst_reconstructions.png")
    (folder / "training_curves.csv").write_text("step,train_loss,validation_loss\n0,2,\n1,1.5,1.6\n2,1.2,\n")
    return tmp_path


def write(root: Path, stage: str, content: dict[str, Any]) -> None:
    (root / "metrics").mkdir(exist_ok=True)
    (root / "metrics" / f"{stage}.json").write_text(json.dumps(content))


class Page(HTMLParser):
    """Checks that tags are balanced and collects addresses and ids."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        values = dict(attrs)
        self.addresses += [values[key] or "" for key in ("src", "href", "xlink:href") if key in values]
        self.ids += [values["id"] or ""] if "id" in values else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag


def test_page_is_well_formed_and_needs_no_network(project: Path, params: Params) -> None:
    text = rendered(project, params)
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    outside = [
        address for address in page.addresses if not address.startswith(("#", "data:image/webp;base64,"))
    ]
    assert outside == []
    assert not re.search(r"url\((?!#)|@import|<script|<link", text)
    for address in page.addresses:
        if address.startswith("#"):
            assert address[1:] in [*page.ids, "report"]


def test_same_inputs_give_the_same_bytes(project: Path, params: Params) -> None:
    assert rendered(project, params) == rendered(project, params)


def test_everything_measured_is_shown(project: Path, params: Params) -> None:
    text = rendered(project, params)
    assert '<div class="label">Images</div>\n<div class="value"><span class="">2,659</span></div>' in text
    assert '<span class="against">0.4123 →</span> <span class="good">0.5612</span>' in text
    assert "0.4123 [0.4010, 0.4200]" in text
    assert '<td class="number good">−0.1080</td>' in text  # LPIPS fell, which is good
    assert "rolled-in scale</th>" in text
    (source,) = re.findall(
        r'src="data:image/webp;base64,([^"]+)" width="30" height="20" alt="Worst recon', text
    )
    assert np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))).mean() == pytest.approx(128, abs=1)
    assert "Training curves" in text
    assert "train loss" in text
    assert "png_level: 1" in text


def test_a_lower_rkid_is_green_and_a_higher_one_red(project: Path, params: Params) -> None:
    page = rendered(project, params)
    assert '<span class="against">0.7500 →</span> <span class="good">0.2500</span>' in page
    assert '<td class="number good">−0.5000</td>' in page
    metrics = json.loads((project / "metrics/evaluate_vq.json").read_text())
    write(project, "evaluate_vq", {"before": metrics["after"], "after": metrics["before"]})
    assert '<td class="number bad">+0.5000</td>' in rendered(project, params)


def test_what_is_not_measured_is_said(project: Path, params: Params) -> None:
    text = rendered(project, params)
    assert "<code>metrics/augment.json</code> does not exist, so this stage has not run here" in text
    assert "<code>metrics/merge.json</code> does not exist" not in text
    assert text.count("not measured yet") == 8  # five headlines, three lines of the answer
    assert "Not measured yet: the stage <code>evaluate_efficientad</code> has not run here" in text


def test_the_page_says_how_to_make_it_again(project: Path, params: Params) -> None:
    assert "git checkout 7e62c17f2d\ndvc repro</pre>" in rendered(project, params)
    (project / "Makefile").write_text("repro:\n")
    assert "git checkout 7e62c17f2d\nmake repro PROFILE=cpu</pre>" in rendered(project, params)


def test_text_from_outside_is_escaped(project: Path, params: Params) -> None:
    write(project, "augment", {"<script>alert(1)</script>": 3})
    text = rendered(project, params)
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<title>Steel &amp; &lt;b&gt;co&lt;/b&gt;: " in text
    assert "echo &#34;&lt;done&gt;&#34;" in text


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics/merge.json", "{", r"merge\.json is not valid JSON"),
        ("plots/evaluate_vq/broken.png", "no image", r"broken\.png is not a readable PNG"),
        ("plots/evaluate_vq/empty.csv", "step,loss\n", r"empty\.csv has no rows"),
        ("plots/evaluate_vq/words.csv", "step,loss\n1,high\n", r"words\.csv: every cell must be a number"),
    ],
)
def test_a_broken_file_is_named(project: Path, params: Params, file: str, content: str, message: str) -> None:
    (project / file).write_text(content)
    with pytest.raises(UserError, match=message):
        rendered(project, params)


def test_a_missing_pipeline_is_named(tmp_path: Path, params: Params) -> None:
    with pytest.raises(UserError, match=r"dvc\.yaml does not exist"):
        render_report(tmp_path, params, FACTS)


def test_graph_follows_paths_and_leaves_out_what_is_implied() -> None:
    import yaml

    entries = stage_entries(yaml.safe_load(PIPELINE), {"data": {"root": "data/sample"}})
    whole = dependencies(entries)
    assert whole["merge"] == {"sample"}  # by ${data.root}
    assert whole["finetune_vq"] == {"augment", "merge"}  # data/merged/images lies in data/merged
    assert whole["report"] == {"train_efficientad", "merge"}  # metrics holds metrics/merge.json
    short = reduced(whole)
    assert short["finetune_vq"] == {"augment"}
    assert short["report"] == {"train_efficientad"}
    assert layers(short) == {
        "sample": 0,
        "merge": 1,
        "augment": 2,
        "finetune_vq": 3,
        "distill_teacher": 3,  # where it joins, not where it could start
        "train_efficientad": 4,
        "evaluate_vq": 5,
        "report": 5,
    }
    places = list(layout(short).corner.values())
    assert len(set(places)) == 8
    drawing = draw_graph(entries, {"merge": "images 2,659"})
    assert drawing.count('class="edge"') == 8
    assert drawing.count("<rect") == 8
    assert "images 2,659" in drawing


def test_graph_of_no_stages_is_empty() -> None:
    assert "<rect" not in draw_graph([], {})


def test_nested_metrics_become_tables() -> None:
    found = tables(
        {
            "total": 12,
            "per_split": {"train": {"crazing": 5}, "test": {"crazing": 1, "patches": 2}},
            "parity": {"fp32": 1.25e-7, "ok": True},
            "bins": [{"ratio": 0.5, "ce": 4.0}, {"ratio": 0.9, "ce": 5.0}],
        }
    )
    assert [table.title for table in found] == ["", "per split", "parity", "bins"]
    assert found[0].rows == [[("total", ""), ("12", "number")]]
    assert found[1].header == ["", "crazing", "patches"]
    assert [[text for text, _ in row] for row in found[1].rows] == [["train", "5", "–"], ["test", "1", "2"]]
    assert [[text for text, _ in row] for row in found[2].rows] == [["fp32", "1.25e-07"], ["ok", "yes"]]
    assert [[text for text, _ in row] for row in found[3].rows] == [
        ["1", "0.5000", "4.000"],
        ["2", "0.9000", "5.000"],
    ]


def test_intervals_that_stand_apart_join_their_numbers() -> None:
    (table, rest) = tables({"au_pro": 0.81, "images": 9, "interval_95": {"au_pro": [0.7, 0.9], "f1": [0, 1]}})
    assert [[text for text, _ in row] for row in table.rows] == [
        ["au pro", "0.8100 [0.7000, 0.9000]"],
        ["images", "9"],
    ]
    assert [[text for text, _ in row] for row in rest.rows] == [["f1", "0, 1"]]


def test_curves_are_grouped_and_thinned(tmp_path: Path) -> None:
    file = tmp_path / "curves.csv"
    file.write_text("step,train_loss,validation_loss,accuracy\n0,2.5,,0.1\n10,1.5,1.75,0.2\n")
    name, x, columns = read_columns(file)
    assert (name, x) == ("step", [0.0, 10.0])
    assert panels(list(columns)) == {"loss": ["train_loss", "validation_loss"], "accuracy": ["accuracy"]}
    assert thinned(x, columns["validation_loss"]) == [(10.0, 1.75)]
    many = thinned([float(i) for i in range(10_001)], [0.0] * 10_001)
    assert len(many) <= 402
    assert many[-1] == (10_000.0, 0.0)


def write_classes(root: Path, classes: int, side: int) -> None:
    """Merged and drawn images of many classes: noise, which no format makes small."""
    rng = np.random.default_rng(0)
    for folder in (root / "data/merged", root / "data/synthetic"):
        rows = []
        for number in range(classes):
            for copy in range(3):
                path = f"images/{number:02d}/{copy}.png"
                write_png(folder / path, rng.integers(0, 256, (side, side)).astype(np.uint8))
                rows.append({"path": path, "label": f"class_{number:02d}", "split": "train"})
        pd.DataFrame(rows).to_parquet(folder / "samples.parquet")


def test_a_page_of_thirty_classes_stays_under_ten_megabytes(project: Path, params: Params) -> None:
    write_classes(project, 30, 384)
    text = render_report(project, params, FACTS)
    assert len(text.encode()) <= 10_000_000
    found = re.findall(r'<img [^>]*width="(\d+)"[^>]* alt="class_\d\d, (training|drawn) image"', text)
    assert [kind for _, kind in found].count("drawn") == 90  # smaller, but all of them
    assert {int(width) for width, _ in found} < set(range(200, 384))


def test_pictures_keep_their_size_where_the_page_has_room(project: Path, params: Params) -> None:
    write_classes(project, 2, 384)
    widths = re.findall(r'width="(\d+)"[^>]* alt="class_\d\d, drawn image"', rendered(project, params))
    assert widths == ["384"] * 6


def test_a_page_is_shrunk_until_it_fits_and_no_further() -> None:
    scales = []

    def page(scale: float) -> str:
        scales.append(scale)
        return "x" * round(500 + 2000 * scale**2)

    assert 800 <= len(within(1000, page)) <= 1000
    assert scales[0] == 1.0
    assert len(scales) <= 5
    assert len(within(100, page)) == 520  # the text alone is longer: the smallest pictures


def test_which_detector_to_use_stands_first_in_the_detectors_section(project: Path, params: Params) -> None:
    numbers = {"image_auroc": 0.64, "detection_rate": 0.5, "false_alarm_rate": 0.1}
    advice = {"use": "memory bank", "verdict": "use the memory bank today: it is better"}
    counts = {"good": 20, "defective": 40}
    write(project, "evaluate_efficientad", {**numbers, "images": counts, "memory_bank": advice})
    section = rendered(project, params).split('<section id="detector">')[1].split("</section>")[0]
    sentence = "<b>Which one to use today?</b> Use the memory bank today: it is better."
    assert section.index(sentence) < section.index("<table")
    assert "<details" not in section
