"""scikit-learn estimators: regression and classification of sequences, and forecasts."""
