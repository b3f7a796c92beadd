"""A trained language model without torch: read, step, generate, score."""
