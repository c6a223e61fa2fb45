"""The pure core of serving: no Django, no model framework."""
