"""What an execution can be told: the parameter table, and the types of its values."""
