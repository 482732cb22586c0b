"""What the tasks of an execution report while they work: entries, their writer, and what they add up to."""
