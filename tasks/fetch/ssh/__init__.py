"""SSH and SFTP: connections, host keys, listings, byte streams, remote checksums."""
