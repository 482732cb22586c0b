"""The configuration of an execution: the parameter table and the types of its values."""
