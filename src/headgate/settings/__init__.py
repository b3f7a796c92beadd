"""All settings, each defined once with its default, help text and bounds."""
