"""`python -m pipeline.profiles NAME`: write params.yaml from a profile in conf/ and print what changed."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from dvc.utils.hydra import compose_and_dump

from metaldefect.artifacts import atomic_file
from metaldefect.errors import UserError, is_disk_full

# The typed parameters take longer to import than a profile to compose. `make repro` composes at every start,
# so they are imported only where the parameters change.
CONF = Path("conf")
PARAMS = Path("params.yaml")
BEFORE = Path("params.yaml.before")  # what somebody had set by hand
DEFAULT = "cpu"
OWN = "own settings"  # the name of all that no profile gives
NATURAL = re.compile(r"^( +natural: )(\S.*)$", re.MULTILINE)  # folders of natural photographs
SHOWN = 20  # changes printed one by one


def profiles(conf: Path) -> list[str]:
    """Names of the profiles in a configuration folder."""
    return sorted(path.stem for path in (conf / "profile").glob("*.yaml"))


def composed_text(conf: Path, profile: str) -> str:
    """The text of params.yaml for a profile.

    Raises:
        ParamsError: the profile does not exist, or its values are not valid.
        UserError: a file of it is not YAML, or refers to what is not there.
    """
    text = compose(conf, profile)
    check(text, profile)
    return text


def check(text: str, profile: str) -> None:
    """Raise `ParamsError` if a profile's composed text is not valid."""
    from pipeline.params import parse_params

    parse_params(yaml.safe_load(text), f"profile {profile}")


def compose(conf: Path, profile: str) -> str:
    """`composed_text` without the check of its values."""
    known = profiles(conf)
    if profile not in known:
        from pipeline.params import ParamsError

        raise ParamsError(f"no profile {profile!r}: {conf}/profile has {', '.join(known) or 'none'}")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "params.yaml"
        try:
            compose_and_dump(str(target), str(conf.resolve()), None, "config", folder, [f"profile={profile}"])
        except Exception as error:  # Hydra, OmegaConf and YAML have no common one
            if is_disk_full(error):  # no fault of the profile
                raise
            raise UserError(f"{conf}/profile/{profile}.yaml cannot be composed: {error}") from error
        return target.read_text(encoding="utf-8")


def profile_name(params: Path, conf: Path) -> str:
    """The profile that `params` was composed from, or `OWN` where it is none of them."""
    content = yaml.safe_load(params.read_text(encoding="utf-8"))
    for name in profiles(conf):
        try:
            text = composed_text(conf, name)
        except UserError:  # somebody is still writing it: nothing was run with it
            continue
        if content in (yaml.safe_load(text), yaml.safe_load(with_packaged_photographs(text))):
            return name
    return OWN


def with_packaged_photographs(text: str) -> str:
    """A text of params.yaml in which photographs come from installed packages, not from a folder."""
    return NATURAL.sub(r"\1null", text)


def missing_photographs(text: str, root: Path) -> list[str]:
    """The folders of photographs that a text of params.yaml names and `root` does not have."""
    named = dict.fromkeys(folder for _, folder in NATURAL.findall(text) if folder != "null")
    return [folder for folder in named if not (root / folder).is_dir()]


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line per value that differs: `a.b: 1 -> 2`."""
    from pipeline.run import flatten

    old, new = dict(flatten(before)), dict(flatten(after))
    missing = object()

    def shown(values: Mapping[str, Any], key: str) -> str:
        return str(values[key]) if key in values else "(not there)"

    return [
        f"{key}: {shown(old, key)} -> {shown(new, key)}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key, missing) != new.get(key, missing)
    ]


def write_params(root: Path, profile: str) -> list[str]:
    """Write `params.yaml` in `root` for a profile; return one line per changed value.

    Raises:
        ParamsError: the profile does not exist, or values that would be written are not valid.
    """
    return write_text(root, compose(root / CONF, profile), profile)


def is_own_work(root: Path) -> bool:
    """Whether `params.yaml` holds what neither git nor a profile could give back."""
    if not (root / PARAMS).is_file():
        return False
    command = ["git", "diff", "--quiet", "HEAD", "--", str(PARAMS)]
    is_committed = subprocess.run(command, cwd=root, capture_output=True).returncode == 0
    return not is_committed and profile_name(root / PARAMS, root / CONF) == OWN


def write_text(root: Path, text: str, profile: str) -> list[str]:
    """Write `params.yaml` in `root` from a profile's composed text, as `write_params` does."""
    target = root / PARAMS
    old = target.read_text(encoding="utf-8") if target.is_file() else ""
    if old == text:
        return []
    check(text, profile)
    if is_own_work(root):
        shutil.copy2(target, root / BEFORE)
        print(f"your own params.yaml is kept as {BEFORE}: `cp {BEFORE} params.yaml && dvc repro` runs it")
    with atomic_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return changes(yaml.safe_load(old) or {}, yaml.safe_load(text))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.profiles", description=__doc__)
    parser.add_argument(
        "profile", nargs="?", default=DEFAULT, help=f"name in conf/profile (default: {DEFAULT})"
    )
    options = parser.parse_args(arguments)
    try:
        text = compose(CONF, options.profile)
        # `make data` cannot fetch them, and the run would not ask for them before its last trainings
        if missing := missing_photographs(text, Path()):
            print(
                f"{', '.join(missing)}: not there; photographs of installed packages take its place. Another"
                f" folder of photographs: `natural` in {CONF}/profile/{options.profile}.yaml."
            )
            text = with_packaged_photographs(text)
        changed = write_text(Path(), text, options.profile)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    if changed:
        print(f"params.yaml now holds the profile {options.profile}; {len(changed)} values changed:")
        print("\n".join(f"  {line}" for line in changed[:SHOWN]))
        if len(changed) > SHOWN:
            print(f"  and {len(changed) - SHOWN} more")
    return 0


if __name__ == "__main__":
    sys.exit(main())
