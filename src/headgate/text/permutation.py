"""Random permutations that take no memory, for the order of the pieces of a text.

The pieces of a gigabyte of text, 35 tokens each, are 30 million: as an array, their order would take 240 MB in every
process and be made again in every epoch. Up to 65,536 pieces, about 2 MB of text, it is an array.
"""

import numpy as np


def permuted(places: np.ndarray, n: int, key: tuple[int, ...]) -> np.ndarray:
    """Apply the random permutation of 0 to n - 1 that belongs to ``key`` to ``places``.

    A long permutation is never made as a whole: a Feistel network permutes 2^(2b) >= n numbers, and a result of n or
    more goes through it again (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002).

    >>> sorted(permuted(np.arange(100_000), 100_000, (0, 7)).tolist()) == list(range(100_000))
    True
    """
    generator = np.random.default_rng(key)
    if n <= 1 << 16:
        order: np.ndarray = generator.permutation(n)
        taken: np.ndarray = order[places]
        return taken
    b = np.uint64(((n - 1).bit_length() + 1) // 2)
    mask = (np.uint64(1) << b) - np.uint64(1)
    rounds = generator.integers(0, 1 << 64, 8, np.uint64)
    images = places.astype(np.uint64)
    walking = np.ones(len(images), bool)
    while walking.any():
        left, right = images[walking] >> b, images[walking] & mask
        for salt in rounds:
            left, right = right, left ^ (_mixed(right + salt) & mask)
        images[walking] = left << b | right
        walking = images >= n
    return images.astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """Mix 64 bits until each depends on every bit of x: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ x >> np.uint64(shift)) * np.uint64(factor)
    mixed: np.ndarray = x ^ x >> np.uint64(31)
    return mixed
