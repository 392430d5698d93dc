"""Metal-defect synthesis: draw and insert defects, train and use detectors, fetch data, check this machine.

`dvc repro` runs the pipeline; these commands do single things outside it.
"""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path
from typing import Annotated

import typer

from metaldefect.cli import app as library
from metaldefect.cli import run_app
from metaldefect.drawing_cli import app as drawing

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(library)
app.add_typer(drawing)

Root = Annotated[Path, typer.Option(help="The project's folder.")]


@app.command("get-data")
def get_data(
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Folder of tars or dataset folders to copy, instead of downloading."),
    ] = None,
    root: Root = Path(),
) -> None:
    """Put the real datasets into data/raw, from their repositories or from local copies."""
    from pipeline.get_data import get_data as fetch_datasets

    folder = source.absolute() if source else None
    with chdir(root):
        print("\n".join(fetch_datasets(folder)))


@app.command()
def doctor(root: Root = Path()) -> None:
    """Check versions, ports, servers, databases, disk, memory and weights of this machine.

    `ok` is fine, `note` is worth knowing, `FAIL` breaks something and says how to fix it.
    """
    from pipeline.doctor import diagnose

    findings = diagnose(root.resolve())
    print("\n".join(str(finding) for finding in findings))
    failed = sum(finding.level == "FAIL" for finding in findings)
    print(f"\n{failed} to mend" if failed else "\nready")
    if failed:
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Run the `metaldefect` command and exit with its code."""
    run_app(app, arguments)


if __name__ == "__main__":
    main()
