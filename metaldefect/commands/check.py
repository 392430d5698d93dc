"""`metaldefect check`: say in seconds what the tool sees in a folder, and what to type next."""

from __future__ import annotations

import base64
import io
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment
from PIL import Image

from metaldefect.artifacts import atomic_file
from metaldefect.errors import printable
from metaldefect.image_files import U8
from metaldefect.ingest.overview import Overview
from metaldefect.inspection.layout import GOOD
from metaldefect.rerun import has_repro_target

LISTED = 10
PROFILES = Path("conf/profile")

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ root }}</title>
<style>
body { max-width: 1000px; margin: 32px auto; padding: 0 20px; font: 16px/1.5 system-ui, sans-serif; }
pre { padding: 12px 16px; border: 1px solid #8884; border-radius: 8px; white-space: pre-wrap; }
figure { display: inline-block; margin: 0 8px 8px 0; }
img { display: block; border-radius: 4px; }
</style>
</head>
<body>
<h1>{{ root }}</h1>
<pre>{{ text }}</pre>
<p>The first images of each class, with masks or boxes outlined in red:</p>
{% for label, images in thumbnails.items() %}
<h2>{{ label }}</h2>
{% for source in images %}<figure><img src="{{ source }}" alt="{{ label }}"></figure>{% endfor %}
{% endfor %}
</body>
</html>
"""


def describe(seen: Overview) -> str:
    """The overview and what to type next, as text."""
    return "\n".join([*facts(seen), "", *next_steps(seen)])


def facts(seen: Overview) -> list[str]:
    """The overview as text, one fact per line."""
    total = sum(seen.classes.values())
    lines = [f"layout       {seen.adapter}", f"images       {total}"]
    width = max((len(printable(label)) for label in seen.classes), default=0)
    lines += [
        f"  {printable(label):<{width}} {count:>6}{masks_in_words(seen, label)}"
        for label, count in seen.classes.items()
    ]
    if seen.splits:
        lines.append(f"splits       {joined(seen.splits)}")
    lines.append(f"sizes        {sizes_in_words(seen.sizes)}")
    lines.append(f"files        {joined(seen.kinds)}")
    lines.append(f"colours      {colours_in_words(seen)}")
    if seen.levels is not None:
        lines.append(f"16 bits      read from {seen.levels.low:g} (black) to {seen.levels.high:g} (white)")
    if seen.unread is not None:
        low, high = seen.unread
        lines.append(f"32 bits      levels from {low:g} to {high:g} in images that need stated levels")
    if seen.mask_levels:
        lines.append(f"mask levels  {joined(seen.mask_levels)}")
    several, images = seen.groups
    scenes = f"{seen.scenes} scenes"
    repeated = f"{several} photographs more than once, {images} images in all" if several else "none"
    lines.append(f"duplicates   {repeated}; {scenes}")
    lines += [f"note         {note}" for note in seen.notes]
    lines.append(f"refused      {len(seen.rejected)}")
    lines += [f"  {file.path}: {file.reason}" for file in seen.rejected[:LISTED]]
    if len(seen.rejected) > LISTED:
        lines.append(f"  and {len(seen.rejected) - LISTED} more")
    return lines


def masks_in_words(seen: Overview, label: str) -> str:
    """How many defects of a label have a mask, and how many of those masks mark nothing."""
    if label not in seen.defects:
        return ", no defect"
    empty = seen.empty_masks.get(label, 0)
    return f", {seen.masks.get(label, 0)} with a mask" + (f", {empty} of them empty" if empty else "")


def colours_in_words(seen: Overview) -> str:
    """How many images show colours, and what becomes of them."""
    if not seen.coloured:
        return "none, every image is grey"
    kept = "kept by `channels: 3`" if seen.channels == 3 else "made grey; `channels: 3` keeps them"
    return f"in {seen.coloured} of {sum(seen.classes.values())} images, {kept}"


def joined(counts: Mapping[Any, int]) -> str:
    """The most frequent values with their counts."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    text = "; ".join(f"{name} ({count})" for name, count in ranked[:LISTED])
    return text + (f"; and {len(ranked) - LISTED} more" if len(ranked) > LISTED else "")


def sizes_in_words(sizes: Mapping[tuple[int, int], int]) -> str:
    """All sizes if they are few, else their range."""
    if len(sizes) <= 4:
        return joined({f"{width}x{height}": count for (width, height), count in sizes.items()})
    (widths, heights) = zip(*sizes, strict=True)
    return f"{min(widths)}x{min(heights)} to {max(widths)}x{max(heights)}, {len(sizes)} different"


def next_steps(seen: Overview) -> list[str]:
    """What to type next: a profile for the pipeline, or what is missing for one."""
    if (levels := levels_to_state(seen)) is not None:
        return [
            f"Next: metaldefect check {quoted(seen.root)} --levels {levels[0]:g},{levels[1]:g}",
            f"      and set `levels: {in_yaml(levels)}` of the dataset: black and white.",
        ]
    if seen.rejected:
        return ["Next: repair or remove the refused files, or allow their number in `max_rejected`."]
    options: dict[str, Any] = {"adapter": seen.adapter, "root": "."}
    if seen.setting is not None:
        options["levels"] = list(seen.setting) if isinstance(seen.setting, tuple) else seen.setting
    dataset = in_yaml(options)
    in_repository = PROFILES.is_dir() and has_repro_target(Path())
    root = seen.root if in_repository else seen.root.absolute()
    data: dict[str, Any] = {"root": str(root), "classes": seen.defects or [*seen.classes]}
    if seen.channels == 3:
        data["channels"] = 3
    project = []
    if seen.adapter == "folder" and GOOD in seen.classes:
        defects = f" --defects {quoted(seen.root)}" if seen.defects else ""
        project = [f"Next: metaldefect new ../mine --good {quoted(good_folder(seen.root))}{defects}", ""]
    place = "" if in_repository else " in a checkout of metaldefect's repository"
    lines = [
        *project,
        f"{'Or' if project else 'Next'}: write {PROFILES}/mine.yaml{place} and type"
        " `make repro PROFILE=mine`" + (":" if in_repository else " there:"),
        "",
        "# @package _global_",
        f"data: {in_yaml(data)}",
        "merge:",
        f"  datasets: [{dataset}]",
        f"  inspection: {dataset}",
    ]
    if len(seen.defects) == len(seen.classes):
        lines[-1] = "  inspection: ... # needs good images, which this dataset has not: name one that has"
    return lines


def good_folder(root: Path) -> Path:
    """The folder of good images as it is spelled on disk, such as `Good`; the first of several."""
    return min(folder for folder in root.iterdir() if folder.is_dir() and folder.name.lower() == GOOD)


def levels_to_state(seen: Overview) -> list[float] | None:
    """Black and white for images that need them: the levels found, rounded; None if there are none."""
    if seen.unread is None:
        return None
    low, high = (float(f"{level:g}") for level in seen.unread)
    return [low, high] if low < high else None


def quoted(path: Path) -> str:
    """A path for the command line of a shell, safe to print."""
    return shlex.quote(printable(str(path)))


def in_yaml(value: Any) -> str:
    """A value on one line of YAML; names that look like numbers are quoted."""
    text: str = yaml.safe_dump(
        value, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False
    )
    return text.strip()


def write_page(seen: Overview, path: Path) -> None:
    """Write the overview with thumbnails as one HTML file that works offline."""
    sources = {
        printable(label): [data_uri(image) for image in images] for label, images in seen.thumbnails.items()
    }
    page = Environment(autoescape=True, trim_blocks=True).from_string(PAGE)
    with atomic_file(path) as temporary:
        temporary.write_text(
            page.render(root=printable(seen.root.name), text=describe(seen), thumbnails=sources),
            encoding="utf-8",
        )


def data_uri(image: U8) -> str:
    """An image as PNG in a data URI."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
