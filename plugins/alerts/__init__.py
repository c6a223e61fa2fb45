"""The built-in alert channels."""
