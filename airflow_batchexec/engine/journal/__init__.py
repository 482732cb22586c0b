"""The journal that the tasks of an execution keep while they run: entries, writer, replay."""
