"""Split-conformal prediction intervals, from the absolute errors of forecasts of steps that were not trained on.

Letters: n forecasts, h steps ahead. Source: Vovk, Gammerman, Shafer 2005. With the error of rank ceil((n + 1) coverage)
as half the width, an interval covers a new, exchangeable value with at least that probability.
"""

import numpy as np

from headgate.errors import InputError


def check_coverage(coverage: object) -> None:
    """Raise InputError unless ``coverage`` is a float between 0 and 1."""
    if isinstance(coverage, bool) or not isinstance(coverage, float | np.floating) or not 0 < coverage < 1:
        raise InputError(f"coverage must be above 0 and below 1, got {coverage!r}")


def least_errors(coverage: float) -> int:
    """Return the number of errors of past forecasts that an interval of this coverage needs.

    >>> least_errors(0.8), least_errors(0.95)
    (4, 19)
    """
    return int(np.ceil(round(coverage / (1 - coverage), 9)))


def observed(errors: np.ndarray) -> int:
    """Return how many errors (n, h) are known, not NaN, for the step ahead with the fewest."""
    return int((~np.isnan(errors)).sum(0).min())


def quantiles(
    errors: np.ndarray,
    horizon: int,
    coverage: float,
    remedy: str = "give a longer series, or a larger calibration",
) -> np.ndarray:
    """Return half the width of the interval at each of ``horizon`` steps ahead, (horizon,).

    ``errors``: absolute errors (n, h), sorted for each step; NaN for steps that were not observed, which come last.
    Raises InputError if ``coverage`` is not between 0 and 1, if ``horizon`` exceeds the calibrated steps, or, with the
    advice ``remedy``, if there are too few errors.

    >>> quantiles(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, np.nan]]), 2, 0.75)
    array([7., 6.])
    """
    calibrated = errors.shape[1]
    check_coverage(coverage)
    if horizon > calibrated:
        raise InputError(
            f"intervals are calibrated for {calibrated} steps, {horizon} were asked for: fit with horizon={horizon}"
        )
    n = observed(errors)
    if int(np.ceil((n + 1) * coverage)) > n:
        raise InputError(
            f"an interval of coverage {coverage:g} needs {least_errors(coverage)} forecasts of "
            f"the held-out part, but there are {n}: {remedy}"
        )
    widths = np.empty(horizon)
    for step in range(horizon):
        known = errors[~np.isnan(errors[:, step]), step]
        widths[step] = known[int(np.ceil((len(known) + 1) * coverage)) - 1]
    return widths
