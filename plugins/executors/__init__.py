"""Built-in executors, one per module."""
