"""The models: registry, live versions, batching, and the API."""
