"""Metal-defect synthesis: start a project, draw and insert defects, train and use detectors.

`dvc repro` runs the pipeline; these commands do single things outside it.
"""

from __future__ import annotations

import os
import sys
from contextlib import chdir
from pathlib import Path
from typing import Annotated

import typer

from metaldefect.cli import app as library
from metaldefect.cli import run_app
from metaldefect.drawing_cli import app as drawing
from metaldefect.line_cli import app as line
from pipeline.champion_cli import app as champion

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(library)
app.add_typer(drawing)
app.add_typer(line)
app.add_typer(champion)

TROUBLE = 3  # exit code of a look that found something wrong; 1 is a failure of the command itself

Root = Annotated[Path, typer.Option(help="The project's folder.")]


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    good: Annotated[Path, typer.Option(help="Images without a defect, at any depth.")],
    defects: Annotated[
        Path | None,
        typer.Option(help="Images with defects: a folder per class, or images of one class."),
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Masks of the defects, sorted and named as the images.")
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="Time for a run of the whole pipeline on two cores: sets training steps.")
    ] = 60,
) -> None:
    """Make a project of your own images: a folder with data, settings and pipeline, in git and DVC.

    Looks at all images first, as `metaldefect check` does, and refuses with reasons. Your files are only
    read. Prints what to type next and how long it takes.
    """
    from pipeline.new_data import Folders
    from pipeline.new_project import create_project

    print(create_project(folder, Folders(good, defects, masks), minutes))


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


@app.command()
def demo(
    root: Root = Path(),
    compare: Annotated[
        list[Path] | None, typer.Option(help="Folder of another finished run; may be repeated.")
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; one that others reach needs a password in METALDEFECT_DEMO_PASSWORD."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the page.")] = 7860,
) -> None:
    """Serve the demo's page with the models of a finished run, until Ctrl-C."""
    options = ["--root", str(root), "--host", host, "--port", str(port)]
    if compare:
        options += ["--compare", *map(str, compare)]
    # The page becomes this process, so that whoever stops the command stops the page
    os.execv(sys.executable, [sys.executable, "-m", "app", *options])


@app.command()
def deploy(
    root: Root = Path(),
    port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
    flows_only: Annotated[
        bool,
        typer.Option("--flows-only", help="Only deploy, where systemd runs server, worker and watchdog."),
    ] = False,
) -> None:
    """Start Prefect's server, a worker and the watchdog on this machine, and deploy all flows."""
    from pipeline.deployment import deploy as start

    print(start(root.resolve(), port, flows_only))
    serve_pages = "mlflow server --backend-store-uri sqlite:///mlruns/mlflow.db --port 5000"
    print(
        f"MLflow's pages: `{serve_pages}` serves them; `python -m pipeline.mlflow_view` prints links to the"
        " metrics."
    )


@app.command()
def undeploy(root: Root = Path()) -> None:
    """End what `deploy` started; running flows end their stages and report it."""
    from pipeline.deployment import undeploy as stop

    print(stop(root.resolve()))


@app.command()
def worker(root: Root = Path()) -> None:
    """Run Prefect's worker in the foreground, as a systemd unit does; SIGTERM ends its flow runs first."""
    from pipeline.prefect_settings import prepare_environment
    from pipeline.watchdog import api_url
    from pipeline.worker import clean_up, run_worker

    prepare_environment(root)
    api = api_url(root)
    os.environ["PREFECT_API_URL"] = api  # for Prefect's own worker too
    for said in clean_up(root.resolve(), api):
        print(said, flush=True)
    raise typer.Exit(run_worker(root.resolve()))


@app.command()
def watchdog(
    root: Root = Path(),
    once: Annotated[
        bool, typer.Option("--once", help=f"Look once; exit with {TROUBLE} if anything is wrong.")
    ] = False,
    seconds: Annotated[float, typer.Option(help="Pause between two looks.", min=1)] = 60,
) -> None:
    """Report a dead server, a missing worker, a schedule that did not fire, and failed runs.

    Reports go to logs/notices.log, and to a webhook and by e-mail where METALDEFECT_NOTIFY_... say so.
    """
    from pipeline.watchdog import api_url, watch, watch_once

    if not once:
        watch(root.resolve(), api_url(root), seconds)
    if troubles := watch_once(root.resolve(), api_url(root)):
        print("\n".join(troubles))
        raise typer.Exit(TROUBLE)
    print("server, worker and schedules are well")


def main(arguments: list[str] | None = None) -> None:
    """Run the `metaldefect` command and exit with its code."""
    run_app(app, arguments)


if __name__ == "__main__":
    main()
