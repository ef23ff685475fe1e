"""Lighterage's tasks: download datasets from hosts that are reachable only by SSH."""
