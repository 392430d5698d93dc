"""What a run's programs are: every installed package with its version, and the lock file they come from."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name

LOCK = Path("requirements.lock")
LISTING = "environment.txt"


def installed_packages() -> list[str]:
    """`name==version` of every installed package, sorted."""
    names = {canonicalize_name(each.name): each.version for each in distributions() if each.name}
    return sorted(f"{name}=={version}" for name, version in names.items())


def environment_tags(root: Path) -> dict[str, str]:
    """What tells two environments apart.

    Args:
        root: the project's folder.

    Returns:
        The Python version, an MD5 over all installed packages, and the SHA-256 of the lock file, if the
        project has one.
    """
    listing = "\n".join(installed_packages())
    tags = {"python": platform.python_version(), "environment.md5": hashlib.md5(listing.encode()).hexdigest()}
    if (root / LOCK).is_file():
        tags["requirements.lock_sha256"] = hashlib.sha256((root / LOCK).read_bytes()).hexdigest()
    return tags
