"""The predictor: a child process with the build loaded. ``process`` is its interface, ``child`` the process itself."""
