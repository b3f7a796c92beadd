"""Regression, classification and forecasts, by scikit-learn's contract."""
