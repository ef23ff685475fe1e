"""Credentials: passwords, private keys and their passphrases, for each hop of a connection."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fabric
import paramiko

from tasks.fetch.errors import AuthError, ConfigError
from tasks.fetch.secret_file import read_secret
from tasks.fetch.ssh.connection_settings import ConnectionSettings
from tasks.fetch.ssh.login import Login

log = logging.getLogger(__name__)

KEY_TYPES = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


def login_arguments(
    settings: ConnectionSettings,
    hop: fabric.Connection,
    key: paramiko.PKey | None,
    password: str | None,
    *,
    explicit: bool,
    prompt: bool,
) -> dict[str, Any]:
    """Return the arguments of paramiko's `connect` for one hop.

    Keys of the agent and of ~/.ssh are tried only where the settings have neither a password nor
    a key, since a host counts each wrong key as a failed login.
    """
    named = password is not None or (key is not None and explicit)
    files = hop.connect_kwargs.get("key_filename") or []  # IdentityFile of ssh_config

    def keys() -> Iterator[paramiko.PKey]:
        if key is not None:
            yield key
        yield from _loadable(files, settings)
        if not named:
            yield from paramiko.Agent().get_keys()
            if not files:
                existing = [file for file in DEFAULT_KEYS if Path(file).expanduser().exists()]
                yield from _loadable(existing, settings)

    timeouts = ("timeout", "banner_timeout", "auth_timeout", "channel_timeout")
    return {
        "auth_strategy": Login(hop.user, hop.host, keys, password, prompt),
        **dict.fromkeys(timeouts, settings.timeout),
    }


def _loadable(files: Iterable[str], settings: ConnectionSettings) -> Iterator[paramiko.PKey]:
    """Yield the keys of some files, and warn of those that cannot be used."""
    for file in files:
        phrase = read_secret(settings.ssh_key_passphrase_file, "ssh_key_passphrase_file")
        try:
            yield _load(Path(file).expanduser(), "IdentityFile", phrase)
        except (AuthError, ConfigError) as error:
            log.warning("%s", error)


def private_key(settings: ConnectionSettings) -> paramiko.PKey | None:
    """Return the key of `ssh_key_file`, with its certificate; None where none is set."""
    file = settings.ssh_key_file
    if file is None:
        return None
    phrase = read_secret(settings.ssh_key_passphrase_file, "ssh_key_passphrase_file")
    return _load(file, "ssh_key_file", phrase)


def _load(file: Path, setting: str, phrase: str | None) -> paramiko.PKey:
    reason = "not a usable private key"
    for kind in KEY_TYPES:
        try:
            key: paramiko.PKey = kind.from_private_key_file(str(file), password=phrase)
            certificate = Path(f"{file}-cert.pub")
            if certificate.exists():
                key.load_certificate(str(certificate))
        except FileNotFoundError as error:
            raise ConfigError(
                f"{setting} is {file}: there is no such file", advice="create it, or name another"
            ) from error
        except OSError as error:
            why = error.strerror or error
            raise ConfigError(
                f"{setting} is {file}: cannot be read: {why}", advice="make it readable"
            ) from error
        except paramiko.PasswordRequiredException as error:
            raise AuthError(
                f"{setting} is {file}: the key has a passphrase",
                advice="set SSH_KEY_PASSPHRASE_FILE",
            ) from error
        except Exception as error:  # noqa: BLE001 (paramiko and cryptography raise a dozen kinds)
            log.debug("%s is no %s: %r", file, kind.__name__, error)
            if phrase:
                reason = "the passphrase is wrong, or it is not a usable private key"
        else:
            return key
    raise AuthError(
        f"{setting} is {file}: {reason}",
        advice=f"check the file and its passphrase with `ssh-keygen -y -f {file}`; known are "
        "Ed25519, ECDSA and RSA keys",
    )
