"""Batches from tables, time series and ragged arrays."""
