"""The pods on this machine: its resources, which of them are in use, and the pods that tasks share."""
