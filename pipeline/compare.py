"""`metaldefect compare`: the champion's pipeline run against the last ones, in the terminal and as a page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from metaldefect.errors import UserError
from metaldefect.metrics.directions import improvement
from metaldefect.rerun import repro_command
from pipeline.headline import HEADLINE, WORDS
from pipeline.main_metrics import formatted
from pipeline.parent import DATA_TAG
from pipeline.registry import CHAMPION_ALIAS, DETECTOR
from pipeline.run import EXPERIMENT, connect_tracking

FOLDER = Path(__file__).parent / "report"
TEMPLATE = "compare.html.j2"
# The terminal has room for few; the page shows all headline metrics.
SHOWN = ("image_auroc", "au_pro", "f1_at_threshold", "ssim", "cas_ratio", "kid_ratio")
COLUMN = 16
GREEN, RED, PLAIN = "\033[32m", "\033[31m", "\033[0m"


@dataclass(frozen=True)
class Row:
    """A pipeline run.

    Attributes:
        name: what and when.
        run_id: of MLflow.
        tags: verdict, profile, commit and so on.
        metrics: the headline metrics.
        champion: whether its detector serves.
    """

    name: str
    run_id: str
    date: str
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    champion: bool = False

    @property
    def facts(self) -> str:
        """Verdict, profile, commit and data, as far as they are known."""
        known = {
            "": self.tags.get("verdict", ""),
            "profile ": self.tags.get("profile", ""),
            "commit ": short(self.tags.get("git.commit", "")),
            "data ": self.tags.get(DATA_TAG, "")[:8],
        }
        return ", ".join(f"{word}{value}" for word, value in known.items() if value)


def short(commit: str) -> str:
    """A commit's first seven digits, and `-dirty` if its files differed."""
    return commit[:7] + ("-dirty" if commit.endswith("-dirty") else "")


def find_runs(root: Path, last: int) -> list[Row]:
    """The champion's run, if it is known, then the last finished pipeline runs, newest first.

    Raises:
        UserError: no pipeline run has headline metrics yet.
    """
    with chdir(root):
        connect_tracking()
        import mlflow

        client = mlflow.MlflowClient()
        served = champion_run(client)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        # Only parents carry the profile
        found = client.search_runs(
            [experiment.experiment_id],
            "tags.profile != '' and attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
            max_results=last,
        )
        rows = [row_of(run, served) for run in found]
        if served and not any(row.champion for row in rows):
            rows.append(row_of(client.get_run(served), served))
    if not rows:
        raise UserError(f"no finished pipeline run in MLflow yet: `{repro_command(root)}` makes one")
    return sorted(rows, key=lambda row: not row.champion)


def champion_run(client: Any) -> str | None:
    """The run that made the detector with the alias `champion`."""
    known = client.search_registered_models(f"name = '{DETECTOR}'")
    if not known or CHAMPION_ALIAS not in known[0].aliases:
        return None
    return str(client.get_model_version_by_alias(DETECTOR, CHAMPION_ALIAS).run_id)


def row_of(run: Any, served: str | None) -> Row:
    """A row of an MLflow run."""
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    metrics = {name: run.data.metrics[name] for name in HEADLINE if name in run.data.metrics}
    return Row(
        run.info.run_name,
        run.info.run_id,
        f"{started:%Y-%m-%d %H:%M}",
        dict(run.data.tags),
        metrics,
        run.info.run_id == served,
    )


def kind_of(name: str, value: float, reference: Row, row: Row) -> str:
    """`good`, `bad` or empty: the value against the first row's."""
    before = reference.metrics.get(name)
    if row is reference or before is None or abs(value - before) <= 1e-6 * max(abs(value), abs(before)):
        return ""
    better = improvement(name, before, value)
    return "" if not better else "good" if better > 0 else "bad"


def as_text(rows: Sequence[Row], colour: bool) -> str:
    """The table for a terminal; better than the first row is green, worse is red."""
    codes = {"good": GREEN, "bad": RED} if colour else {}
    shown = [name for name in SHOWN if any(name in row.metrics for row in rows)]
    width = max(len(title(row)) for row in rows) + 2
    header = "".join(name.replace("_", " ")[:COLUMN].rjust(COLUMN + 2) for name in shown)
    lines = [" " * width + header]
    for row in rows:
        cells = []
        for name in shown:
            value = row.metrics.get(name)
            text = (formatted(value) if value is not None else "–").rjust(COLUMN + 2)
            code = codes.get(kind_of(name, value, rows[0], row)) if value is not None else None
            cells.append(f"{code}{text}{PLAIN}" if code else text)
        lines += [title(row).ljust(width) + "".join(cells), f"  {row.facts}"]
        if row.tags.get("reason"):
            lines.append("  " + textwrap.shorten(row.tags["reason"], 110, placeholder=" ..."))
    return "\n".join(lines)


def title(row: Row) -> str:
    """The run's name, marked if its detector serves."""
    return f"{'* ' if row.champion else '  '}{row.name}{' (serves)' if row.champion else ''}"


def render_page(rows: Sequence[Row], project: str) -> str:
    """The page: small multiples of every headline metric, then the whole table; no outside requests."""
    names = [name for name in WORDS if any(name in row.metrics for row in rows)]
    table = [
        [
            (formatted(row.metrics[name]), kind_of(name, row.metrics[name], rows[0], row))
            if name in row.metrics
            else ("–", "")
            for row in rows
        ]
        for name in names
    ]
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    return environment.get_template(TEMPLATE).render(
        project=project,
        rows=rows,
        names=[WORDS[name] for name in names],
        table=table,
        charts=[(WORDS[name], last_words(rows, name), Markup(draw(rows, name))) for name in names],
        time=f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}",
    )


def last_words(rows: Sequence[Row], name: str) -> str:
    """The newest run's value, and the serving run's where it is another one."""
    newest = max((row for row in rows if name in row.metrics), key=lambda row: row.date)
    text = formatted(newest.metrics[name])
    serving = next((row for row in rows if row.champion and row is not newest and name in row.metrics), None)
    return text if serving is None else f"{text}, serves: {formatted(serving.metrics[name])}"


def draw(rows: Sequence[Row], name: str) -> str:
    """A small chart of one metric as SVG: runs from old to new, the champion's value as a line."""
    import io

    import matplotlib as mpl
    from matplotlib.figure import Figure

    from pipeline.report.figures import COLOURS, GREY

    ordered = sorted(rows, key=lambda row: row.date)
    points = [(x, row.metrics[name]) for x, row in enumerate(ordered) if name in row.metrics]
    style: dict[Any, Any] = {
        "svg.fonttype": "none", "font.size": 10, "font.family": "sans-serif", "axes.edgecolor": GREY,
        "ytick.color": GREY, "axes.spines.top": False, "axes.spines.right": False,
        "axes.spines.bottom": False,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=(3.2, 1.5), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[0], linewidth=1.4, markersize=5)
        for x, row in enumerate(ordered):
            if row.champion and name in row.metrics:
                value = row.metrics[name]
                axes.axhline(value, color=COLOURS[1], linewidth=1, linestyle="--")
                axes.plot([x], [value], "o", color=COLOURS[1], markersize=8)
        axes.set_xlim(-0.4, len(ordered) - 0.6)
        axes.set_xticks([])
        axes.locator_params(axis="y", nbins=4)
        axes.margins(y=0.2)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
