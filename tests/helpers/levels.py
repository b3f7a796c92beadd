"""The instruction sets that the native library can use on this machine. Imports no torch."""

from headgate import native


def levels() -> list[int]:
    library = native.load()
    if library is None:
        return []
    best = library.headgate_level()
    usable = [level for level in range(len(native.LEVELS)) if library.headgate_use_level(level) == 0]
    library.headgate_use_level(best)
    return usable
