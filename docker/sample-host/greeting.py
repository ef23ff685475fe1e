"""Connect to the sample host as a task does, and read what an SSH server says first.

python greeting.py PORT NAME...
"""

import socket
import sys

for name in sys.argv[2:]:
    try:
        with socket.create_connection((name, int(sys.argv[1])), 2) as connection:
            connection.settimeout(2)
            if connection.recv(4) != b"SSH-":
                sys.exit(f"{name}: no greeting of an SSH server")
    except OSError as error:
        sys.exit(f"{name}: {error}")
