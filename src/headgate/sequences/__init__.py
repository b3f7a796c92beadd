"""From tables, series and ragged arrays to batches."""
