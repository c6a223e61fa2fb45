"""Tests of the built-in feature sources."""
