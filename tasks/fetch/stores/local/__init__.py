"""The local store: a folder, published by an atomic exchange."""
