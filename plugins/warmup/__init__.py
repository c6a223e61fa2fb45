"""Built-in warm-up strategies, one per module."""
