"""An execution: its definition, the documents that it writes to its destination, its start and its end."""
