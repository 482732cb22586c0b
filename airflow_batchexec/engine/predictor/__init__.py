"""The pod: one child process with the model loaded. ``process`` is the parent's side, ``worker`` the child's."""
