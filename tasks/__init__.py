"""Lighterage's tasks: datasets brought off a host that is reached only by SSH."""
