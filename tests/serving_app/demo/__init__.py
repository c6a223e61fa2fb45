"""Tests of the demo: data, training, export."""
