"""Shards: the parts of one run that several processes land, on one machine or on many.

What they agree on is in small records beside the target: see `run.ShardRun`.
"""
