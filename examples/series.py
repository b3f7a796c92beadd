"""Forecast two classic time series: monthly carbon dioxide over Mauna Loa, and yearly sunspots.

Both come with statsmodels. Each is tested on five folds at its end and compared with the seasonal-naive forecast, which
repeats the last season. Then a model that has not seen the last steps forecasts them, and the picture shows the actual
values as well.

    python examples/series.py [FOLDER]      # writes FOLDER/co2.png and FOLDER/sunspots.png; default: the current folder
"""

import sys
from pathlib import Path

import pandas as pd
import statsmodels.api as sm

from headgate import GRUForecaster


def carbon_dioxide() -> pd.Series:
    """Return monthly means from March 1958 to December 2001, in parts per million; five months are missing."""
    return sm.datasets.co2.load_pandas().data["co2"].resample("MS").mean().rename("CO2 over Mauna Loa, ppm")


def sunspots() -> pd.Series:
    """Return the yearly means from 1700 to 2008."""
    data = sm.datasets.sunspots.load_pandas().data
    years = pd.PeriodIndex(data["YEAR"].astype(int).astype(str), freq="Y")
    return pd.Series(data["SUNACTIVITY"].to_numpy(), index=years, name="sunspots")


def main(folder: Path) -> dict[str, pd.Series]:
    monthly = GRUForecaster(horizon=12, fill="linear", random_state=0)
    yearly = GRUForecaster(horizon=11, season_length=11, random_state=0)
    means = {}
    for name, y, forecaster in (("co2", carbon_dioxide(), monthly), ("sunspots", sunspots(), yearly)):
        folds = forecaster.backtest(5, y)
        print(f"{name}\n{folds.drop(columns='series').to_string(index=False, float_format='%.3f')}")
        means[name] = folds[["mase", "seasonal_naive", "coverage"]].mean()
        print("mean " + ", ".join(f"{key} {value:.3f}" for key, value in means[name].items()), end="\n\n")

        known, actual = y.iloc[: -forecaster.horizon], y.iloc[-forecaster.horizon :]
        forecaster.fit(known).plot(actual=actual, path=folder / f"{name}.png")
        print(forecaster.summary(), end="\n\n")
    return means


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
