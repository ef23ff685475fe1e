"""A client of the Debug Adapter Protocol, as an editor has it."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0
Message = dict[str, Any]


class Debugger:
    """A connection to a debug adapter that waits for a client."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._stream = connection.makefile("rb")
        self._received: list[Message] = []
        self._number = 0

    def request(self, command: str, **arguments: Any) -> Callable[[], Any]:
        """Send a request; return what gives the body of its response."""
        self._number += 1
        number = self._number
        message = {"seq": number, "type": "request", "command": command, "arguments": arguments}
        body = json.dumps(message).encode()
        self._socket.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

        def response() -> Any:
            answer = self._wait(lambda one: one.get("request_seq") == number)
            assert answer["success"], answer
            return answer.get("body")

        return response

    def event(self, name: str) -> Any:
        """Return the body of the next event of that name."""
        return self._wait(lambda one: one.get("event") == name).get("body")

    def attach(self, folder: Path, remote_root: str) -> None:
        """Attach to a program whose files in `remote_root` are those of a folder here."""
        self.request("initialize", adapterID="debugpy", pathFormat="path")()
        mapping = {"localRoot": str(folder), "remoteRoot": remote_root}
        self.request("attach", pathMappings=[mapping], justMyCode=True)  # answered at the end
        self.event("initialized")

    def _wait(self, wanted: Callable[[Message], bool]) -> Message:
        while not (found := next(filter(wanted, self._received), None)):
            self._received.append(self._read())
        self._received.remove(found)
        return found

    def _read(self) -> Message:
        length = 0
        while line := self._stream.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name == b"Content-Length" else length
        assert length, f"the adapter ended; before: {self._received}"
        message: Message = json.loads(self._stream.read(length))
        return message


@contextlib.contextmanager
def debugger(port: int) -> Iterator[Debugger]:
    """Connect to a debug adapter once it answers.

    A port that an engine publishes accepts connections earlier.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as one:
            one.settimeout(TIMEOUT_S)
            if one.recv(1, socket.MSG_PEEK):
                yield Debugger(one)
                return
        assert time.monotonic() < deadline, f"nothing answers on port {port}"
        time.sleep(0.1)
