"""Archives: detect the format by content, read the members as the bytes arrive, enforce limits.

Takes a byte stream, gives members one by one. Knows no SSH, no store and no setting. The caller
must not publish anything before the last member was read.

A format is one module with one `Format` (or `Compression`) and one line in registry.py.
"""
