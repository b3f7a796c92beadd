"""Intervals from past errors, split-conformal: as wide as the quantile of the errors of forecasts not trained on.

Letters: n forecasts, h steps ahead. Source: Vovk, Gammerman, Shafer 2005; the rank ceil((n + 1) coverage) makes a new
error of the same kind lie within with at least that probability.
"""

import numpy as np

from headgate.errors import InputError


def check_coverage(coverage: object) -> None:
    """InputError for what is no coverage of an interval."""
    if isinstance(coverage, bool) or not isinstance(coverage, float | np.floating) or not 0 < coverage < 1:
        raise InputError(f"coverage must be above 0 and below 1, got {coverage!r}")


def least_errors(coverage: float) -> int:
    """The errors of past forecasts that an interval of this coverage needs.

    >>> least_errors(0.8), least_errors(0.95)
    (4, 19)
    """
    return int(np.ceil(round(coverage / (1 - coverage), 9)))


def observed(errors: np.ndarray) -> int:
    """The errors (n, h) that there are of the step ahead that was observed least often."""
    return int((~np.isnan(errors)).sum(0).min())


def quantiles(
    errors: np.ndarray,
    horizon: int,
    coverage: float,
    remedy: str = "give a longer series, or a larger calibration",
) -> np.ndarray:
    """Half the width of an interval at each of ``horizon`` steps ahead (horizon,), from absolute errors (n, h), sorted
    for each step, NaN, of steps that were not observed, last.

    Raises InputError if ``coverage`` is not between 0 and 1, if ``horizon`` exceeds the calibrated steps, or if there
    are too few errors, and then says what to do: ``remedy``.

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
            f"the part held out, there are {n}: {remedy}"
        )
    widths = np.empty(horizon)
    for step in range(horizon):
        known = errors[~np.isnan(errors[:, step]), step]
        widths[step] = known[int(np.ceil((len(known) + 1) * coverage)) - 1]
    return widths
