"""The demo's page: paint a defect, generate images, reconstruct, inspect and compare.

`metaldefect demo` (or `make demo`) serves it, see `app/__main__.py`. It makes no request to the outside.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# Files of the page live in a folder of their own; they are deleted after an hour, and when the page ends
if "GRADIO_TEMP_DIR" not in os.environ:
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="metaldefect-demo-cache-")
    atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)

import gradio as gr

from app.api import build_endpoints
from app.arguments import PASSWORD_VARIABLE, USER, check_address
from app.card import model_card
from app.familiar import Familiarity, run_familiarity
from app.local_files import LocalPage
from app.paint import build_paint_tab
from app.results import KEPT_SECONDS
from app.studio import Studio
from app.tabs import build_compare_tab, build_generate_tab, build_inspect_tab, build_reconstruct_tab
from metaldefect.errors import UserError

TITLE = "Metal-defect synthesis"
LARGEST_UPLOAD = "40mb"
WAITING = 32  # requests in the queue; further ones are told to come back
SESSIONS = 100
# Each thread that has drawn once keeps memory of its own
THREADS = 8
# Gradio's own grey and orange give text too little contrast
STYLE = """
.gradio-container { --body-text-color-subdued: #4b5563; --block-info-text-color: #4b5563; }
.dark .gradio-container, .dark.gradio-container {
  --body-text-color-subdued: #c4cad4; --block-info-text-color: #c4cad4;
}
.gradio-container {
  --button-primary-background-fill: #c2410c; --button-primary-background-fill-hover: #9a3412;
}
.or, .info-text { color: var(--body-text-color-subdued) !important; }
"""
INTRODUCTION = (
    f"# {TITLE}\n"
    "Draw defects on good metal with exact masks, and see what the detector makes of them. "
    "Models, examples and numbers come from the last pipeline run."
)


def build(studio: Studio, familiarity: Familiarity | None) -> gr.Blocks:
    """Build the page of a finished run."""
    with LocalPage(title=TITLE, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Tab("Paint a defect"):
            build_paint_tab(studio, familiarity)
        with gr.Tab("Generate"):
            build_generate_tab(studio)
        with gr.Tab("Reconstruct"):
            build_reconstruct_tab(studio, familiarity)
        with gr.Tab("Inspect"):
            build_inspect_tab(studio, familiarity)
        with gr.Tab("Compare"):
            build_compare_tab(studio, familiarity)
        with gr.Accordion("The models, their data, and how good they are", open=False):
            gr.Markdown(model_card(studio))
        build_endpoints(studio, familiarity)
    return page


def build_without_models(reason: str) -> gr.Blocks:
    """The page of a folder without models: it says which command makes them."""
    with gr.Blocks(title=TITLE) as page:
        gr.Markdown(f"# {TITLE}\n## The models cannot be shown\n{reason}", elem_id="missing")
    return page


def page_of(root: Path, others: list[Path]) -> gr.Blocks:
    """The page of a run, or the page that says what is missing."""
    try:
        studio = Studio(root, tuple(others))
        return build(studio, run_familiarity(root))
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        return build_without_models(str(error))


def serve(page: gr.Blocks, host: str = "127.0.0.1", port: int | None = 7860, **more: Any) -> Any:
    """Launch the page with its limits; returns what `Blocks.launch` returns.

    Raises:
        UserError: other machines could reach `host` and no password is set, or nothing can listen there.
    """
    check_address(host, port)
    password = os.environ.get(PASSWORD_VARIABLE)
    return page.queue(max_size=WAITING, default_concurrency_limit=1).launch(
        server_name=host,
        server_port=port,
        auth=(USER, password) if password else None,
        share=False,
        show_error=True,
        max_file_size=LARGEST_UPLOAD,
        state_session_capacity=SESSIONS,
        max_threads=THREADS,
        footer_links=["api"],
        ssr_mode=False,
        css=STYLE,
        **more,
    )
