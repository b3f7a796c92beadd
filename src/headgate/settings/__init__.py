"""Every setting once: its default, its meaning and its bounds."""
