"""A file from the first address that has the right one: timeout, retries, continued after a break, checksum."""

import hashlib
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from headgate.errors import InputError


def download(
    addresses: Sequence[str], sha256: str, target: Path, *, timeout: float = 20.0, attempts: int = 3, pause: float = 1.0
) -> Path:
    """Fetch ``target`` from the first of ``addresses`` whose content has the checksum; returns ``target``.

    What has arrived is kept in ``target`` + ".part" and continued by the next attempt; only a complete and checked
    file ever gets the name ``target``. ``timeout`` and ``pause`` (doubled after each attempt) are in seconds.
    Raises InputError that gives the reason for every address.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    reasons = []
    for address in addresses:
        for attempt in range(attempts):
            if attempt:
                time.sleep(pause * 2 ** (attempt - 1))
            try:
                _fetch(address, part, timeout)
            except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
                reason = str(getattr(error, "reason", "") or error)
                if isinstance(error, urllib.error.HTTPError) and error.code in (400, 401, 403, 404, 410):
                    break  # asking again would not help
                continue
            if file_sha256(part) == sha256:
                return part.replace(target)
            part.unlink()
            reason = "its content has another checksum"
        reasons.append(f"{address}: {reason}")
    raise InputError(
        f"could not download {target.name} ({'; '.join(reasons)}): "
        "put the file into a directory and name that with --data-dir or HEADGATE_DATA"
    )


def _fetch(address: str, part: Path, timeout: float) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing left to send: the part is complete, or too long; the checksum decides
            raise
        return
    with response:
        continued = response.status == 206
        expected = response.headers.get("Content-Length")
        received = 0
        with part.open("ab" if continued else "wb") as file:
            while block := response.read(1 << 16):
                file.write(block)
                received += len(block)
        if expected is not None and received < int(expected):
            raise ConnectionError(f"the connection broke after {received} of {expected} bytes")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
