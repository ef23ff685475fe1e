"""Destinations: where a run writes and publishes."""
