"""The REST API: it translates, and calls the Recommender."""
