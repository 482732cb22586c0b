"""The model repository: builds, publishing, and downloads to this machine."""
