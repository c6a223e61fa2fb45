"""The model host: one process per host that runs the models of all its web workers."""
