"""The cache: levels, policies, keys. It knows no model."""
