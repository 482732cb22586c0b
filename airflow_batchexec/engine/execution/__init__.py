"""An execution: what it is, what it writes into its destination, how it begins and ends."""
