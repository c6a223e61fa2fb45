"""Built-in feature sources, one per module."""
