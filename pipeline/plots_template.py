"""`python -m pipeline.plots_template`: let `dvc plots show` and `dvc plots diff` work offline.

DVC's own page loads Vega from a CDN. This writes a page template that contains Vega itself, from the
package `vl-convert-python`, and names it in `.dvc/config.local`. Git ignores both files.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from metaldefect.artifacts import atomic_file

TEMPLATE = Path(".dvc/plots.html")
VEGA_LITE = "5.21"  # DVC's plots are Vega-Lite 5 specifications
PAGE = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
{refresh_tag}
<title>Metal-defect synthesis: plots</title>
<script>
%s
</script>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 24px; }
table { border-spacing: 15px; }
</style>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def template() -> str:
    """The page: DVC's placeholders, with Vega, Vega-Lite and Vega-Embed in one script."""
    from vl_convert import javascript_bundle

    bundle = javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    # Wrap the bundle in a function: its top-level names would otherwise become globals of the page
    return PAGE % ("(() => {" + bundle + "})();")


def main() -> int:
    """Write the template and configure DVC to use it; return the exit code."""
    with atomic_file(TEMPLATE) as temporary:
        temporary.write_text(template(), encoding="utf-8")
    config = ["config", "--local", "plots.html_template", TEMPLATE.name]
    return subprocess.run([sys.executable, "-m", "dvc", *config]).returncode


if __name__ == "__main__":
    sys.exit(main())
