"""The deployment: settings, URLs, entry points, the admin site."""
