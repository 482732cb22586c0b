"""Hooks: what reaches the buckets."""
