"""`python -m app`: serve the page of a run until it is stopped."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from app.arguments import PASSWORD_VARIABLE, check_address, check_finished
from metaldefect.errors import exit_on_user_error


def main() -> None:
    """Serve the page of a run; a wrong address or folder is refused before anything large is imported."""
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("."), help="folder of the pipeline (default: here)")
    parser.add_argument("--compare", type=Path, nargs="*", default=[], help="folders of other finished runs")
    parser.add_argument(
        "--host", default="127.0.0.1", help=f"one that others reach needs a password in {PASSWORD_VARIABLE}"
    )
    parser.add_argument("--port", type=int, default=7860)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # or the folder of uploads would stay
    with exit_on_user_error("demo"):
        check_address(args.host, args.port)
        check_finished(args.compare)  # here, because page_of serves a page whatever is missing
        print("demo: loading the models", file=sys.stderr, flush=True)
        from app.demo import page_of, serve

        serve(page_of(args.root, args.compare), args.host, args.port)


if __name__ == "__main__":
    main()
