"""The Open Inference Protocol's door: everything at ``/v2``."""
