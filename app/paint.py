"""The tab Paint a defect: a mask on a good image becomes a defect, and the detector judges both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from app.familiar import Familiarity
from app.reading import painted_mask, read_photograph, read_settings, told
from app.results import mvtec_zip, new_folder, write_animation, write_image
from app.studio import (
    Drawing,
    Mask,
    Settings,
    Studio,
    Verdict,
    draw_defect,
    inspect_image,
    visualize_mask_on_image,
)
from metaldefect.images import U8, as_channels, read_image

NOTHING_VISIBLE = (
    "**Nothing visible was drawn.** Another seed, a larger mask, or more guidance usually helps; the exact "
    "mask is empty, the detector has nothing to find, and there is nothing to download."
)
UNLIKE = (
    "**This image is unlike anything that the models were trained on**, so neither the drawing nor the "
    "detector's verdict can be relied on."
)


SHOWN = (
    (("Original", "original"), ("Drawn defect", "drawn"), ("Your mask", "masked"), ("Exact mask", "exact")),
    (("Tokens being drawn", "tokens"), ("Heat map before", "before"), ("Heat map after", "after")),
)


def picture(label: str, name: str) -> Any:
    """An image that the page shows, exact to the pixel; Gradio's button to share it would send it away."""
    return gr.Image(
        label=label,
        interactive=False,
        format="png",
        min_width=220,
        buttons=["download", "fullscreen"],
        elem_id=name,
    )


def verdict_line(verdict: Verdict, threshold: float) -> str:
    """The detector's decision with its numbers."""
    decision = "defective" if verdict.detection.is_anomalous else "good"
    return f"**{decision}**, score {verdict.detection.score:.3f} (threshold {threshold:.3f})"


def canvas(image: U8) -> Any:
    """The editor's value for an image `uint8 [H, W]` or `[H, W, 3]`, with nothing painted."""
    background = as_channels(image, 3)
    return {"background": background, "layers": [], "composite": background}


def number_fields(studio: Studio, tab: str) -> list[Any]:
    """A tab's fields class, seed, guidance, temperature and steps, in the order of `read_settings`."""
    classes = list(studio.painter.classes)
    return [
        gr.Dropdown(classes, value=classes[-1], label="Defect class"),
        gr.Textbox(
            "0", label="Seed", info="Each seed draws another defect.", max_lines=1, elem_id=f"{tab}-seed"
        ),
        gr.Slider(0.0, 4.0, 2.0, step=0.25, label="Guidance", info="How strongly the class counts."),
        gr.Slider(0.3, 1.5, 0.7, step=0.05, label="Temperature", info="Higher is more varied."),
        gr.Slider(
            1, 32, 16, step=1, label="Steps", info="Passes in which tokens are drawn.", elem_id=f"{tab}-steps"
        ),
    ]


def remark_on(image: U8, familiarity: Familiarity | None) -> list[str]:
    """What to know about an image before believing results on it."""
    return [UNLIKE] if familiarity is not None and familiarity.is_unlike(image) else []


def offered_files(folder: Path, image: U8, drawn: Drawing, label: str, settings: Settings) -> list[Any]:
    """The buttons that download image, exact mask and zip; all empty if nothing visible was drawn.

    Without a visible change the image would be a good one with an empty mask, filed as a defect.
    """
    if not drawn.changed.any():
        return [gr.DownloadButton(value=None, interactive=False) for _ in range(3)]
    files = [
        write_image(folder, "image", drawn.image),
        write_image(folder, "mask", drawn.changed),
        mvtec_zip(folder, image, drawn, label, settings),
    ]
    return [gr.DownloadButton(value=file, interactive=True) for file in files]


class Controls(NamedTuple):
    """The components with which people choose an image and paint on it."""

    editor: Any
    gallery: Any
    upload: Any
    fields: list[Any]
    button: Any
    words: Any


def build_paint_tab(studio: Studio, familiarity: Familiarity | None) -> None:
    """Add the tab's components to the page that is being built."""

    def open_file(path: str | None) -> tuple[dict[str, Any], U8, str]:
        with told():
            photograph = read_photograph(path, studio.channels, studio.levels)
        remarks = [*photograph.remarks, *remark_on(photograph.image, familiarity)]
        return canvas(photograph.image), photograph.image, "\n\n".join(remarks)

    def choose(event: gr.SelectData) -> tuple[dict[str, Any], U8, str]:
        image = read_image(examples[event.index], studio.channels)
        return canvas(image), image, ""

    def draw(
        image: U8 | None,
        drawing: dict[str, Any] | None,
        label: str,
        seed: str,
        guidance: float,
        temperature: float,
        steps: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio finds it by its default)
    ) -> tuple[Any, ...]:
        with told():
            settings = read_settings(seed, guidance, temperature, steps)
            mask = painted_mask(drawing, image)
            assert image is not None
            progress(0.1, "drawing tokens")
            drawn = draw_defect(studio, image, mask, label, settings)
            progress(0.6, "the detector looks at both")
            verdicts = [inspect_image(studio.detector, picture) for picture in (image, drawn.image)]
        words = [*remark_on(image, familiarity), *result_words(drawn, verdicts, studio, settings)]
        return "\n\n".join(words), *result_files(image, mask, drawn, verdicts, label, settings)

    examples = studio.examples()
    first = read_image(examples[0], studio.channels) if examples else None
    state = gr.State(first)
    controls = place_controls(studio, examples, first)
    images, downloads = place_results()
    shown = [controls.editor, state, controls.words]
    controls.gallery.select(choose, None, shown, api_visibility="private")
    controls.upload.upload(open_file, controls.upload, shown, api_visibility="private")
    controls.button.click(
        draw,
        [state, controls.editor, *controls.fields],
        [controls.words, *images, *downloads],
        concurrency_id="models",
        api_visibility="private",
    )


def result_words(
    drawn: Drawing, verdicts: Sequence[Verdict], studio: Studio, settings: Settings
) -> list[str]:
    """What the page says about a drawing; `verdicts` are those before and after it."""
    before, after = (verdict_line(verdict, studio.detector.threshold) for verdict in verdicts)
    words = [
        f"Before: {before}. After: {after}.",
        f"{int(drawn.changed.sum()):,} pixels changed visibly; no pixel changed farther than "
        f"{settings.feather:g} pixels from your mask.",
    ]
    return words if drawn.changed.any() else [NOTHING_VISIBLE, *words]


def result_files(
    image: U8, mask: Mask, drawn: Drawing, verdicts: Sequence[Verdict], label: str, settings: Settings
) -> list[Any]:
    """The pictures that the page shows of a drawing, in the order of `SHOWN`, and its downloads."""
    folder = new_folder()
    return [
        image,
        drawn.image,
        visualize_mask_on_image(image, mask),
        visualize_mask_on_image(drawn.image, drawn.changed),
        write_animation(folder, drawn.steps),
        *(verdict.heat_map for verdict in verdicts),
        *offered_files(folder, image, drawn, label, settings),
    ]


def place_controls(studio: Studio, examples: Sequence[Path], first: U8 | None) -> Controls:
    """Place the editor, which begins with the image `first`, beside the fields."""
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            editor = gr.ImageEditor(
                value=None if first is None else canvas(first),
                sources=(),
                type="numpy",
                format="png",
                label="Paint where the defect should go",
                brush=gr.Brush(default_size=14, colors=["#ff1e1e"], color_mode="fixed"),
                transforms=(),
                layers=False,
                height=460,
                elem_id="editor",
            )
            gallery = gr.Gallery(
                [str(path) for path in examples],
                label="Good images of this run: click one",
                columns=6,
                height=130,
                allow_preview=False,
                buttons=[],
            )
            upload = gr.File(label="Or your own image: PNG, JPEG, TIFF or BMP", height=150, elem_id="upload")
        with gr.Column(scale=2, min_width=280):
            fields = number_fields(studio, "paint")
            button = gr.Button("Draw the defect", variant="primary", elem_id="draw")
            words = gr.Markdown(elem_id="words")
    return Controls(editor, gallery, upload, fields, button, words)


def place_results() -> tuple[list[Any], list[Any]]:
    """Place the pictures of `SHOWN` in rows, and the downloads below."""
    images = []
    for kinds in SHOWN:
        with gr.Row():
            images += [picture(label, name) for label, name in kinds]
    with gr.Row():
        downloads = [
            gr.DownloadButton(label, interactive=False, elem_id=name)
            for label, name in (
                ("Image (PNG)", "get-image"), ("Exact mask (PNG)", "get-mask"), ("MVTec zip", "get-zip"),
            )
        ]  # fmt: skip
    return images, downloads
