"""The built-in admission filters, one per module."""
