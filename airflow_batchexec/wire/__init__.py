"""The JSON that clients and server exchange."""
