"""The directories that training leaves on disk."""
