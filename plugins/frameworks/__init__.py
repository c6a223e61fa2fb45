"""Built-in model frameworks, one per module; each imports its framework inside ``load``."""
