"""Django management of plugins."""
