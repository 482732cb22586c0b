"""Hooks: access to the buckets."""
