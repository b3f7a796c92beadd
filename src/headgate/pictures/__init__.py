"""Every picture: curves of runs, and forecasts."""
