"""Sign a bundle and check its signature (Ed25519).

Only the metadata is signed, because it names the hash of every other file.

Keys are PEM files, as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from metaldefect.artifacts import atomic_file
from metaldefect.deploy.bundle import METADATA, SIGNATURE, check_files, read_metadata
from metaldefect.errors import UserError


def sign(folder: Path, private_key: Path) -> Path:
    """Check the hash of every file of a bundle, then sign its metadata; returns the signature's file.

    Raises:
        UserError: the bundle is not whole, or the key is no Ed25519 private key.
    """
    metadata = read_metadata(folder)
    check_files(folder, metadata, sorted(metadata.sha256.keys() - {SIGNATURE}))  # it is about to be replaced
    key = as_key(private_key, lambda pem: load_pem_private_key(pem, None), Ed25519PrivateKey)
    with atomic_file(folder / SIGNATURE) as temporary:
        temporary.write_bytes(key.sign((folder / METADATA).read_bytes()))
    return folder / SIGNATURE


def check_signature(folder: Path, public_key: Path, description: bytes) -> None:
    """Check that the owner of a public key signed a bundle's metadata.

    Args:
        folder: the bundle.
        public_key: PEM file.
        description: the bytes of `metadata.json` that are used; a second read might find other ones.

    Raises:
        UserError: there is no signature, or it is another's or of other metadata.
    """
    key = as_key(public_key, load_pem_public_key, Ed25519PublicKey)
    path = folder / SIGNATURE
    if not path.is_file():
        raise UserError(f"{path} does not exist: sign the bundle with `metaldefect sign`")
    try:
        key.verify(path.read_bytes(), description)
    except InvalidSignature as error:
        raise UserError(
            f"{path} does not fit {METADATA} and {public_key}: the bundle was changed, or another key signed"
            " it"
        ) from error


def as_key(path: Path, load: Any, kind: Any) -> Any:
    """Read a PEM file that holds a key of type `kind`."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: make a key with `openssl genpkey -algorithm ed25519`")
    try:
        key = load(path.read_bytes())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UserError(f"{path} holds no PEM key without a password: {error}") from error
    if not isinstance(key, kind):
        raise UserError(f"{path} holds another kind of key than {kind.__name__}")
    return key
