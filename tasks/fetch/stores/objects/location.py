"""Where an object store is, and the credentials for it: from the URL and the AWS_* variables."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tasks.fetch.errors import ConfigError

_BUCKET = re.compile(r"(?!xn--)(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
"""docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
MAX_KEY_BYTES = 1024
"""The longest key that S3 accepts."""


@dataclass(frozen=True)
class Location:
    """A bucket, and a prefix in it: empty for all of it, without a slash at its end."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Location:
        """Return the location that `s3://bucket/prefix` names.

        Raises:
            ConfigError: It has no bucket, or a bucket or prefix that S3 does not accept.
        """
        bucket, _, prefix = url.partition("://")[2].partition("/")
        where = f"file_save_path: {url}"
        if not bucket:
            raise ConfigError(f"{where}: has no bucket", advice="write s3://bucket/prefix")
        if not _BUCKET.fullmatch(bucket):
            raise ConfigError(
                f"{where}: {bucket} cannot be the name of a bucket",
                advice="name one of 3 to 63 lowercase letters, digits, dots and dashes",
            )
        prefix = prefix.removesuffix("/")
        if prefix and name_error(prefix):
            raise ConfigError(
                f"{where}: the prefix {name_error(prefix)}",
                advice="set file_save_path to another prefix",
            )
        return cls(bucket, prefix)

    def path_error(self, run: str, path: str) -> str:
        """Return why a run cannot upload a file of this path; empty if it can."""
        if len(f"{self.prefix}/{object_key(run, path)}".encode(errors="replace")) > MAX_KEY_BYTES:
            return f"makes a key of more than {MAX_KEY_BYTES} bytes"
        return name_error(path)


def name_error(path: str) -> str:
    """Return why a path cannot be (part of) an object's key; empty if it can."""
    if not {"", ".", ".."}.isdisjoint(path.split("/")):
        return "has an empty part, or `.` or `..` as one"
    if _CONTROL.search(path):
        return "has a control character, or a byte that is not UTF-8"
    if len(path.encode()) > MAX_KEY_BYTES:
        return f"is longer than {MAX_KEY_BYTES} bytes"
    return ""


def object_key(run: str, path: str) -> str:
    """Return the key of a file that a run uploaded, below the prefix."""
    return f"objects/{run}/{path}"


@dataclass(frozen=True, repr=False)
class Access:
    """The endpoint and the credentials; `repr` shows neither."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    endpoint: str
    region: str
    ca_bundle: bytes

    @classmethod
    def from_environment(cls) -> Access:
        """Return what the AWS_* variables state: the environment's, and those of the env file.

        Profiles and the cloud's metadata address are not asked.

        Raises:
            ConfigError: A variable is missing or wrong, or a file cannot be read.
        """
        key = os.environ.get("AWS_ACCESS_KEY_ID", "")
        secret = os.environ.get("AWS_SECRET_ACCESS_KEY", "")
        if not secret and (file := os.environ.get("AWS_SECRET_ACCESS_KEY_FILE")):
            secret = _read("AWS_SECRET_ACCESS_KEY_FILE", file).decode(errors="replace").strip()
        for name, value in (("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)):
            if not value:
                raise ConfigError(
                    f"{name} is missing, which an s3:// target needs",
                    advice="set it in the env file or the environment (a secret key may be in a "
                    "file: AWS_SECRET_ACCESS_KEY_FILE)",
                )
        bundle = os.environ.get("AWS_CA_BUNDLE", "")
        return cls(
            key,
            secret,
            os.environ.get("AWS_SESSION_TOKEN", ""),
            _endpoint(),
            os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
            _read("AWS_CA_BUNDLE", bundle) if bundle else b"",
        )


def _endpoint() -> str:
    url = os.environ.get("AWS_ENDPOINT_URL", "")
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or parts.scheme not in {"http", "https"} or "@" in parts.netloc:
        raise ConfigError(
            "AWS_ENDPOINT_URL is not a URL",
            advice="expected a URL such as https://s3.example.com:9000",
        )
    allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() in {"true", "1"}
    if parts.scheme == "http" and not allowed:
        raise ConfigError(
            f"AWS_ENDPOINT_URL is {url}: without TLS others can read and change the data",
            advice="use https://, or set AWS_ALLOW_HTTP=true",
        )
    return url


def _read(name: str, file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{name} is {file}: cannot be read: {error.strerror}", advice="make it readable"
        ) from error
