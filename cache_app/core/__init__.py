"""The pure core of the cache: no Django, no Redis."""
