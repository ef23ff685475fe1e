"""Login: use each of the credentials that the server still asks for, as OpenSSH does.

Paramiko's own way takes a partial success (RFC 4252, 5.1) for a login, and asks for a second
factor on standard output.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
import termios
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import paramiko
from paramiko.ssh_exception import AuthenticationException, BadAuthenticationType

from tasks.fetch.errors import printable
from tasks.fetch.ssh.paramiko_private import HookedTransport, Item, Text, says, set_timeout

PUBLICKEY: Final = "publickey"
PASSWORD: Final = "password"  # noqa: S105 (the name of a method)
INTERACTIVE: Final = "keyboard-interactive"
PROMPT_TIMEOUT_S: Final = 120.0
"""For an answer at the terminal: as long as sshd waits for a login (LoginGraceTime)."""
SHOWN_CHARACTERS: Final = 200
"""Of what a server writes, in an error."""
MAX_KEYS_SHOWN: Final = 3


class NoCredentialsError(paramiko.SSHException):
    """There is no key and no password to log in with."""


@dataclass
class Login:
    """The credentials of one account, and the way to log in with them.

    Attributes:
        user: The account.
        host: Shown in prompts.
        private_keys: Returns the keys, in the order in which to try them.
        password: Also the answer where the server asks one hidden question (PAM's password).
        prompt: Whether a person at the terminal may be asked.
        open_session: Opens a session for SFTP with the login, where the server allows that.
    """

    user: str
    host: str
    private_keys: Callable[[], Iterable[paramiko.PKey]]
    password: str | None
    prompt: bool
    open_session: Callable[[paramiko.Transport], paramiko.Channel] | None = None

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Log in; paramiko calls this once the host key is verified.

        Raises:
            AuthenticationException: Denied, or the server asks for more than there is.
        """
        if isinstance(transport, HookedTransport):
            transport.open_session_with_login = self.open_session
        _Attempt(transport, self).run()


class _Attempt:
    """One login under way."""

    def __init__(self, transport: paramiko.Transport, login: Login) -> None:
        self._transport = transport
        self._name = f"{login.user}@{login.host}"
        self._user = login.user
        self._password = login.password
        self._has_password = login.password is not None
        self._terminal = login.prompt and _has_terminal()
        # Methods and the calls for them, in the order of preference. A call returns the methods
        # with which the server wants the login to continue, none once it succeeded.
        self._untried: list[tuple[str, Callable[[], Sequence[str]]]] = [
            (PUBLICKEY, partial(self._use_key, key)) for key in login.private_keys()
        ]
        if login.password is not None:
            call = partial(transport.auth_password, login.user, login.password, fallback=False)
            self._untried.append((PASSWORD, call))
        if not self._untried:
            raise NoCredentialsError
        interactive = partial(transport.auth_interactive, login.user, self._answer)
        self._untried.append((INTERACTIVE, interactive))
        self._accepted: list[str] = []
        self._denied: list[str] = []
        self._keys: list[str] = []  # those that were tried, for the error
        self._methods: Sequence[str] | None = None  # the server's methods, once it names them
        self._question = ""  # without an answer

    def run(self) -> None:
        """Try one method after the other until the server lets the account in."""
        not_permitted = []
        while step := next(filter(self._may_help, self._untried), None):
            self._untried.remove(step)
            method, login = step
            try:
                methods = self._try(method, login)
            except BadAuthenticationType as error:
                self._methods = error.allowed_types
                not_permitted.append(step)  # perhaps after another one
            except AuthenticationException as error:
                if not self._transport.is_active() or says(error, Text.LOGIN_TIMED_OUT):
                    raise
                self._denied.append(method)
            else:
                if not methods:
                    return
                self._accepted.append(method)
                self._methods = methods
                self._untried = [*not_permitted, *self._untried]
                not_permitted = []
        raise AuthenticationException(self._failure())

    def _may_help(self, step: tuple[str, object]) -> bool:
        method, _ = step
        if self._methods is not None and method not in self._methods:
            return False
        if method != INTERACTIVE:
            return True
        if PASSWORD in self._denied:  # not sent again in another form: a host counts failures
            return False
        may_ask = self._terminal and not self._denied
        return bool(self._accepted) or self._password is not None or may_ask

    def _try(self, method: str, login: Callable[[], Sequence[str]]) -> Sequence[str]:
        if method == INTERACTIVE and self._terminal:
            set_timeout(self._transport, Item.LOGIN_TIMEOUT, PROMPT_TIMEOUT_S)
            with _restored_terminal():
                return login()
        try:
            return login()
        except paramiko.SSHException as error:
            if method == PASSWORD and says(error, Text.PASSWORD_CHANGE):
                raise AuthenticationException(
                    "the password has expired: the server asks for a new one"
                ) from error
            raise

    def _use_key(self, key: paramiko.PKey) -> Sequence[str]:
        self._keys.append(f"{key.get_name()} {key.fingerprint}")
        return self._transport.auth_publickey(self._user, key)

    def _offered(self) -> Sequence[str]:
        """Return the methods that the server offers (RFC 4252, 5.2); none if it does not say."""
        try:
            self._transport.auth_none(self._user)
        except BadAuthenticationType as error:
            return error.allowed_types
        except (paramiko.SSHException, EOFError, OSError):  # it has ended the connection
            pass
        return ()

    def _failure(self) -> str:
        required = ", ".join(self._methods or ())[:SHOWN_CHARACTERS]
        if self._accepted:
            text = f"{', '.join(self._accepted)} accepted, but the server also requires {required}"
        elif self._denied:
            text = f"{', '.join(dict.fromkeys(self._denied))} denied"
            if offered := ", ".join(self._methods or self._offered())[:SHOWN_CHARACTERS]:
                text += f"; the server offers {offered}"
        else:
            text = f"the server accepts only {required}"
        if self._question:
            text += f"; it asks {self._question[:SHOWN_CHARACTERS]!r}, which needs a terminal"
        keys = f"{', '.join(self._keys[:MAX_KEYS_SHOWN])}" or "no key"
        more = (
            f" and {len(self._keys) - MAX_KEYS_SHOWN} more" if self._keys[MAX_KEYS_SHOWN:] else ""
        )
        password = "a password" if self._has_password else "no password"
        return f"{text}; there was {keys}{more} and {password}"

    def _answer(self, title: str, instructions: str, prompts: list[tuple[str, bool]]) -> list[str]:
        """Answer the questions of keyboard-interactive (RFC 4256, 3.2), in paramiko's thread."""
        one_hidden = len(prompts) == 1 and not prompts[0][1]
        # After an accepted password the question is another factor, which a person knows.
        if one_hidden and self._password is not None and not (self._accepted and self._terminal):
            password, self._password = self._password, None  # if the server asks again, it is wrong
            return [password]
        if not self._terminal:
            if prompts:
                self._question = " ".join([instructions, *(text for text, _ in prompts)]).strip()
            return ["" for _ in prompts]
        return _ask(self._name, [title, instructions], prompts)


@contextlib.contextmanager
def _open_terminal() -> Iterator[int]:
    fd = os.open(os.ctermid(), os.O_RDWR | os.O_NOCTTY)
    try:
        yield fd
    finally:
        os.close(fd)


def _has_terminal() -> bool:
    """Return whether a person can answer at a terminal now."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stdin.isatty():
            with _open_terminal() as fd:
                # To read in the background would stop the process.
                return os.tcgetpgrp(fd) == os.getpgrp()
    return False


def _ask(name: str, heading: list[str], prompts: list[tuple[str, bool]]) -> list[str]:
    """Ask a person at the terminal; standard output is for the result alone."""
    answers = []
    with _open_terminal() as fd:
        for line in filter(None, heading):
            os.write(fd, f"({name}) {printable(line)}\n".encode())
        for text, echo in prompts:
            question = f"({name}) {printable(text)}"
            if echo:
                os.write(fd, question.encode())
                answers.append(os.read(fd, 1024).decode(errors="replace").rstrip("\r\n"))
            else:
                answers.append(getpass.getpass(question))  # writes to the terminal as well
    return answers


@contextlib.contextmanager
def _restored_terminal() -> Iterator[None]:
    """Put the terminal's settings back, also where a signal ends a question without echo."""
    with _open_terminal() as fd:
        before = termios.tcgetattr(fd)
        try:
            yield
        finally:
            termios.tcsetattr(fd, termios.TCSANOW, before)
