"""Pictures: training curves and forecasts."""
