"""Tests of the built-in alert channels."""
