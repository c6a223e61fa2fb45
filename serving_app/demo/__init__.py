"""The demo: a shop's purchases become a trained model, exported for every framework."""
