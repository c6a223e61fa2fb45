"""Built-in eviction policies, one per module."""
