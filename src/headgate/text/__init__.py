"""From text to ids to batches."""
