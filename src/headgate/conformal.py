"""Intervals from past errors, split-conformal: as wide as the quantile of the errors of forecasts not trained on.

Letters: n forecasts, h steps ahead. Source: Vovk, Gammerman, Shafer 2005; the rank ceil((n + 1) coverage) makes a new
error of the same kind lie within with at least that probability.
"""

import numpy as np

from headgate.errors import InputError


def quantiles(errors: np.ndarray, horizon: int, coverage: float) -> np.ndarray:
    """Half the width of an interval at each of ``horizon`` steps ahead (horizon,), from absolute errors (n, h), sorted
    for each step, NaN, of steps that were not observed, last.

    Raises InputError for a coverage that is none, more steps than there are errors of, or too few errors for it.

    >>> quantiles(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, np.nan]]), 2, 0.75)
    array([7., 6.])
    """
    calibrated = errors.shape[1]
    if isinstance(coverage, bool) or not isinstance(coverage, float | np.floating) or not 0 < coverage < 1:
        raise InputError(f"coverage must be above 0 and below 1, got {coverage!r}")
    if horizon > calibrated:
        raise InputError(
            f"intervals are calibrated for {calibrated} steps, {horizon} were asked for: fit with horizon={horizon}"
        )
    n = int((~np.isnan(errors)).sum(0).min())  # of the step ahead that was observed least often
    if int(np.ceil((n + 1) * coverage)) > n:
        least = int(np.ceil(round(coverage / (1 - coverage), 9)))
        raise InputError(
            f"an interval of coverage {coverage:g} needs {least} forecasts of "
            f"the part held out, there are {n}: give a longer series, or a larger calibration"
        )
    widths = np.empty(horizon)
    for step in range(horizon):
        known = errors[~np.isnan(errors[:, step]), step]
        widths[step] = known[int(np.ceil((len(known) + 1) * coverage)) - 1]
    return widths
