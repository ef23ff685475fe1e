"""Peers that are scripts: what people write with Fabric and with paramiko alone."""
