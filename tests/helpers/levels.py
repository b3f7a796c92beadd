"""The levels of instructions that the native library has on this machine. No torch: also for processes without it."""

from headgate import native


def levels() -> list[int]:
    library = native.load()
    if library is None:
        return []
    best = library.headgate_level()
    found = [level for level in range(len(native.LEVELS)) if library.headgate_use_level(level) == 0]
    library.headgate_use_level(best)
    return found
