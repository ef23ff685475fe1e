"""A bucket's objects under one prefix: all that is known of obstore, its errors among it.

obstore is imported here, when the first `s3://` target is opened: it is an optional dependency.
An audit event precedes each request that changes the bucket: tests stop a run at each of them.
"""

from __future__ import annotations

import contextlib
import re
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from tasks.fetch.errors import AuthError, ConfigError, LighterageError, NetworkError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from obstore import WritableFile
    from obstore.store import ClientConfig, RetryConfig, S3Config

    from tasks.fetch.stores.objects.location import Access, Location

CONNECT_TIMEOUT_S: Final = 10
REQUEST_TIMEOUT_S: Final = 30
PART_TIMEOUT_S: Final = 180
"""For a part of a large file: a line of 2 Mbit/s passes two of them at once in that time."""
MAX_RETRIES = 5
BACKOFF_S = 0.2
"""Before the first retry; doubled before each other."""
TRIES_WITHOUT_ANSWER: Final = 3
"""Of a write on a condition: obstore repeats the other requests that time out, but not those."""
RETRY_TIMEOUT_S: Final = 30
"""Seconds from the first request in which a 5xx or a lost connection is retried."""
PART_BYTES: Final = 10 * 2**20
PARTS_AT_ONCE: Final = 2
"""A run takes 106 MB, with the last parts of the file before under way; with three, 117."""
MAX_FILE_BYTES: Final = 10_000 * PART_BYTES
"""S3 accepts 10,000 parts, and the size of a file that is streamed is not known before its end."""
READ_BYTES: Final = 8 * 2**20
MARK: Final = "lighterage-run"
"""Metadata of each uploaded file, its run; the store gives copies the same (`x-amz-meta-...`)."""

_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_WRONG_CREDENTIALS = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
    "InvalidClientTokenId", "UnrecognizedClientException",
}  # fmt: skip
_TIMEOUT = "kind: timeout"
_CHECK_STORE = "check AWS_ENDPOINT_URL and the network, and run it again"
_OTHER_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IncorrectEndpoint"}


class Bucket:
    """The objects under a location's prefix; keys are relative to it.

    Raises:
        ConfigError: obstore is not installed, or does not accept the configuration.
    """

    def __init__(self, location: Location, access: Access, name: str) -> None:
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError as error:
            raise ConfigError(
                f"file_save_path: {name}: the package obstore is not installed, which s3:// "
                "targets need",
                advice="install requirements/s3.txt, or build the image with EXTRAS=s3",
            ) from error
        self._api = obstore
        self._name = name
        self._endpoint = access.endpoint or "https://s3.amazonaws.com"

        config: S3Config = {
            "region": access.region,
            "access_key_id": access.access_key_id,
            "secret_access_key": access.secret_access_key,
            "conditional_put": "etag",
        }
        if access.session_token:
            config["session_token"] = access.session_token
        if access.endpoint:
            config["endpoint"] = access.endpoint

        def store(timeout_s: int) -> S3Store:
            client: ClientConfig = {
                "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
                "timeout": timedelta(seconds=timeout_s),
                "allow_http": access.endpoint.startswith("http://"),
            }
            if access.ca_bundle:
                client["root_certificate"] = access.ca_bundle
            retry: RetryConfig = {
                "max_retries": MAX_RETRIES,
                "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S),
                "backoff": {
                    "init_backoff": timedelta(seconds=BACKOFF_S),
                    "max_backoff": timedelta(seconds=5),
                    "base": 2,
                },
            }
            return S3Store(
                location.bucket,
                prefix=location.prefix or None,
                config=config,
                client_options=client,
                retry_config=retry,
            )

        with self.errors():
            self._store, self._parts = store(REQUEST_TIMEOUT_S), store(PART_TIMEOUT_S)

    def get(self, key: str) -> tuple[bytes, str] | None:
        """Return an object and its ETag; None where it does not exist."""
        with self.errors():
            try:
                found = self._api.get(self._store, key)
                return bytes(found.bytes()), found.meta["e_tag"] or ""
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    def read(self, key: str, size: int) -> Iterator[bytes]:
        """Yield an object of `size` bytes in blocks, each with a timeout and retries of its own."""
        for start in range(0, size, READ_BYTES):
            length = min(READ_BYTES, size - start)
            with self.errors():
                block = self._api.get_range(self._store, key, start=start, length=length)
            yield bytes(block)

    def put(self, key: str, data: bytes, run: str) -> None:
        """Write an object in one request, marked with its run."""
        sys.audit("lighterage.request", "put", key)
        with self.errors():
            self._api.put(self._parts, key, data, attributes={MARK: run}, use_multipart=False)

    def copy(self, source: str, key: str) -> None:
        """Have the store copy an object with its mark; see `plain.MAX_COPY_BYTES`."""
        sys.audit("lighterage.request", "copy", key)
        with self.errors():
            self._api.copy(self._parts, source, key)

    def mark(self, key: str) -> str | None:
        """Return the run that an object is marked with: empty without a mark, None without it."""
        with self.errors():
            try:
                found = self._api.get(self._store, key, options={"head": True})
            except FileNotFoundError:
                return None
            return found.attributes.get(MARK, "")

    def put_if(self, key: str, data: bytes, e_tag: str | None) -> bool:
        """Write an object if it has this ETag, or, for None, if it does not exist.

        Returns:
            Whether it was written; also False where an earlier try of this request wrote it, and
            its response was lost.
        """
        sys.audit("lighterage.request", "put", key)
        exceptions = self._api.exceptions
        mode: dict[str, str | None] = {"e_tag": e_tag}
        for last_try in [False] * (TRIES_WITHOUT_ANSWER - 1) + [True]:
            with self.errors():
                try:
                    self._api.put(
                        self._store,
                        key,
                        data,
                        mode="create" if e_tag is None else mode,  # type: ignore[arg-type]  # no version
                        use_multipart=False,
                    )
                except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                    return False
                except exceptions.BaseError as error:
                    if last_try or _TIMEOUT not in str(error).lower():
                        raise
                else:
                    return True
        raise AssertionError("the last try returns or raises")

    def open(self, key: str, run: str) -> WritableFile:
        """Open a large object for writing, which appears, marked, when it is closed."""
        sys.audit("lighterage.request", "open", key)
        with self.errors():
            return self._api.open_writer(
                self._parts, key, attributes={MARK: run}, buffer_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )  # fmt: skip

    def has(self, key: str, size: int) -> bool:
        """Whether an object exists and has this size; False where that cannot be found out."""
        with contextlib.suppress(LighterageError, FileNotFoundError), self.errors():
            return self._api.head(self._store, key)["size"] == size
        return False

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that do not exist are no error."""
        sys.audit("lighterage.request", "delete")
        with self.errors(), contextlib.suppress(FileNotFoundError):
            self._api.delete(self._store, list(keys))

    def entries(self, folder: str) -> Iterator[tuple[str, int, datetime]]:
        """Yield key, size and time of writing of each object in a folder and those below."""
        with self.errors():
            for block in self._api.list(self._store, folder):
                yield from ((item["path"], item["size"], item["last_modified"]) for item in block)

    def top_names(self) -> Iterator[str]:
        """Yield the names directly under the prefix."""
        with self.errors():
            found = self._api.list_with_delimiter(self._store)
            for path in [*found["common_prefixes"], *(item["path"] for item in found["objects"])]:
                yield path.rstrip("/").rpartition("/")[2]

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Raise obstore's errors as those of this project."""
        try:
            yield
        except (self._api.exceptions.BaseError, OSError, ValueError) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> LighterageError:
        """Return an error in one line: obstore's have many, with the whole response in them."""
        text = str(error)
        code = found[1] if (found := _CODE.search(text)) else ""
        status = int(found[1]) if (found := _STATUS.search(text)) else 0
        shown = f"{status} {code}".strip()
        if code in _WRONG_CREDENTIALS or status == 401:
            return AuthError(
                f"{self._name}: the store refuses the credentials ({shown})",
                advice="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
            )
        if code == "RequestTimeTooSkewed":
            return AuthError(
                f"{self._name}: the clock of this machine differs too much from that of the store "
                f"({code})",
                advice="set the time of this machine",
            )
        if code == "NoSuchBucket":
            return StoreError(
                f"{self._name}: there is no such bucket", advice="create it, or name another"
            )
        if code in _OTHER_REGION or "BareRedirect" in text:
            return ConfigError(
                f"{self._name}: the bucket is in another region", advice="set AWS_REGION"
            )
        if status == 403:
            return StoreError(
                f"{self._name}: permission denied ({shown})",
                advice="give the account s3:ListBucket, s3:GetObject, s3:PutObject, "
                "s3:DeleteObject and s3:AbortMultipartUpload",
            )
        if code == "NoSuchUpload":
            return NetworkError(
                f"{self._name}: the store answers {shown}: the upload was ended, and it is not "
                "known how",
                advice="run it again",
                transient=True,
            )
        if status in {408, 429} or (status >= 500 and status != 501):
            return NetworkError(
                f"{self._name}: the store answers {shown}, also after {MAX_RETRIES} retries",
                advice="run it again later",
                transient=True,
            )
        if status:
            return StoreError(f"{self._name}: the store answers {shown}")
        return self._connection_error(text) or StoreError(
            f"{self._name}: {text.partition(chr(10))[0]}"
        )

    def _connection_error(self, text: str) -> NetworkError | None:
        lower = text.lower()
        where = f"{self._name}: {self._endpoint}"
        if "dns error" in lower:
            return NetworkError(
                f"{where}: the host name is not known", advice="check AWS_ENDPOINT_URL"
            )
        if "certificate" in lower or "tls" in lower or "invalidcontenttype" in lower:
            return NetworkError(
                f"{where}: TLS failed",
                advice="check the scheme of AWS_ENDPOINT_URL, and set AWS_CA_BUNDLE "
                "for a private certificate authority",
            )
        if _TIMEOUT in lower:
            return NetworkError(f"{where}: no answer in time", advice=_CHECK_STORE, transient=True)
        if "kind: connect" in lower:
            return NetworkError(
                f"{where}: cannot be connected to", advice="check AWS_ENDPOINT_URL", transient=True
            )
        if "http error" in lower:
            return NetworkError(
                f"{where}: the connection was lost", advice=_CHECK_STORE, transient=True
            )
        return None
