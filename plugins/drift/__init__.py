"""The built-in drift rules."""
