"""The model repository: builds, how they are published, and how they get to this machine."""
