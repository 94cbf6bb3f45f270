"""API keys: who may post."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

from ingestion.errors import PipelineError

#: The client of a gateway that asks for no key.
ANYBODY = "anybody"


class Keys:
    """The keys that are let in; none of them is kept, only what they hash to.

    Args:
        keys: as clients present them.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    def client(self, presented: str | None) -> str | None:
        """A name for who presented a key; None if it is none of the keys.

        All keys are compared, whole, so that the time says nothing about them.
        """
        digest = sha256((presented or "").encode("latin-1", "replace")).digest()
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return digest.hex()[:8] if any(found) else None


def read_keys(environ: Mapping[str, str], file: Path | None) -> list[str]:
    """The keys of ``GATEWAY_API_KEYS``, separated by commas, and of a file, one a line.

    Raises:
        PipelineError: the file cannot be read, or a key cannot be sent in a header.
    """
    keys = environ.get("GATEWAY_API_KEYS", "").split(",")
    if file is not None:
        try:
            lines = file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise PipelineError(f"the API keys in {file} cannot be read: {why}") from error
        keys += [line for line in lines if not line.lstrip().startswith("#")]
    found = [key.strip() for key in keys if key.strip()]
    if not all(key.isascii() and key.isprintable() for key in found):
        raise PipelineError("an API key has characters that no header carries; use letters, digits")
    return found


def keys_for(found: list[str], host: str, open_to_all: bool) -> Keys | None:
    """The keys to ask for; None if everybody is let in.

    Raises:
        PipelineError: everybody would be let in from elsewhere, or without having been meant.
    """
    if found and open_to_all:
        raise PipelineError("--open lets everybody in, but there are API keys; leave out one")
    if found:
        return Keys(found)
    if not open_to_all:
        raise PipelineError(
            "no API keys: set GATEWAY_API_KEYS or --api-keys-file, "
            "or let every program of this machine post with --open"
        )
    if not is_loopback(host):
        raise PipelineError(
            f"--open on {host} would let everybody who reaches it post; "
            "give API keys, or bind to 127.0.0.1"
        )
    return None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, reachable from itself alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
