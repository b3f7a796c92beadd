"""Texts as files and archives, and how they are read."""

import io
import tarfile
import zipfile

from headgate.settings.run import TextSettings
from headgate.text.sources import passages


def read(chosen: TextSettings, **options) -> str:
    """Read a text as one string."""
    return "".join(passage.text for passage in passages(chosen, **options))


def text_of(path, **settings) -> str:
    return read(TextSettings(corpus=str(path), **settings))


def tarred(files: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()
