"""Files in object storage (S3, Google, Azure), and a lease there; by obstore, which is imported when a store is opened.

What a store raises comes out as a FileNotFoundError, as a FileExistsError (the object is there, or another than was
expected), or as a StoreError in one line.
"""

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from metta.errors import MettaError, RunLockedError, hide_password, needed, one_line

FORMS = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder"
HTTP = {
    "client_options": {"allow_http": True, "connect_timeout": timedelta(seconds=10), "timeout": timedelta(minutes=3)},
    "retry_config": {"max_retries": 2, "retry_timeout": timedelta(seconds=60)},
}
BEAT_S = 10.0  # between the signs of life of who holds a lease
FREE_S = 30.0  # without one: it is free for another
OPTIONS: dict[str, dict[str, Any]] = {"file": {"mkdir": True}}  # of other stores: HTTP


class StoreError(MettaError):
    """The object storage cannot be used as it is, or as it was named."""


class Stored(NamedTuple):
    """What a listing says of a file, here or in a store: bytes, and when they were written, in seconds since 1970."""

    size: int
    written: float

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Of a file here; None where there is none."""
        return cls((found := path.stat()).st_size, found.st_mtime) if path.is_file() else None

    def replaces(self, other: "Stored | None") -> bool:
        """Whether it belongs in the other's place: as there is none, or it is of another size and was written later."""
        return other is None or (self.size != other.size and self.written > other.written)


class ObjectStore:
    """A bucket, or what lies in it under a prefix. A tag identifies the content that an object has now."""

    def __init__(self, url: str):
        self.name = hide_password(url)
        self._obstore: Any = (obstore := needed("obstore", self.name, "mirror"))
        stores: Any = obstore.store
        try:
            self._store: Any = stores.from_url(url, **OPTIONS.get(url.partition(":")[0], HTTP))
            if isinstance(self._store, stores.HTTPStore | stores.MemoryStore):
                raise TypeError("no place that can keep a run")
        except (obstore.exceptions.BaseError, OSError, ValueError, TypeError) as error:
            raise StoreError(f"{self.name}: {said(error)}; object storage is {FORMS}") from None

    def files(self, folder: str) -> dict[str, Stored]:
        """List all objects under the folder, by their keys."""
        with self._errors():
            found = [file for some in self._obstore.list(self._store, prefix=f"{folder}/") for file in some]
        return {file["path"]: Stored(file["size"], file["last_modified"].timestamp()) for file in found}

    def folders(self) -> list[str]:
        with self._errors():
            return sorted(self._obstore.list_with_delimiter(self._store)["common_prefixes"])

    def read(self, key: str) -> tuple[bytes, str]:
        """Return the content and its tag."""
        with self._errors():
            found = self._obstore.get(self._store, key)
            return bytes(found.bytes()), found.meta["e_tag"]

    def download(self, key: str, file: IO[bytes]) -> None:
        with self._errors():
            for chunk in self._obstore.get(self._store, key).stream():
                file.write(chunk)

    def tag(self, key: str) -> str:
        with self._errors():
            return str(self._obstore.head(self._store, key)["e_tag"])

    def create(self, key: str, content: bytes | Path) -> str:
        """Put an object where there is none; returns its tag."""
        with self._errors():
            return str(self._obstore.put(self._store, key, content, mode="create")["e_tag"])

    def swap(self, key: str, content: bytes, tag: str) -> str:
        """Replace the object if it is the one with this tag; returns the new tag."""
        with self._errors():
            try:
                put = self._obstore.put(self._store, key, content, mode={"e_tag": tag}, use_multipart=False)
            except NotImplementedError:  # a local folder, which has nothing that compares and swaps at once
                if self.tag(key) != tag:
                    raise FileExistsError(key) from None
                put = self._obstore.put(self._store, key, content)
            return str(put["e_tag"])

    def overwrite(self, key: str, path: Path) -> None:
        with self._errors():
            self._obstore.put(self._store, key, path)

    def delete(self, key: str) -> None:
        with self._errors():
            self._obstore.delete(self._store, key)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        kinds = self._obstore.exceptions
        try:
            yield
        except (kinds.AlreadyExistsError, kinds.PreconditionError) as error:
            raise FileExistsError(said(error)) from error
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise StoreError(f"{self.name}: {said(error)}") from error
            raise
        except (kinds.BaseError, PermissionError, RuntimeError, TimeoutError) as error:
            raise StoreError(f"{self.name}: {said(error)}") from error


class Lease:
    """An object that one process holds: created, then only swapped for what is known. A sign of life every BEAT_S."""

    def __init__(self, store: ObjectStore, key: str, what: str):
        """what: it is for, in errors."""
        self._store, self._key, self._what = store, key, what
        self._me, self._beats = f"process {os.getpid()} on {socket.gethostname()}, {os.urandom(8).hex()}", count()
        self._tag, self._beating, self._end = "", threading.Lock(), threading.Event()
        self.lost: RunLockedError | None = None

    def acquire(self, say: Callable[[str], object]) -> None:
        """Take it where there is none, or where FREE_S brought no sign of life. RunLockedError where another lives."""
        while not self._tag:
            with suppress(FileExistsError):
                self._tag = self._store.create(self._key, self._sign())
                break
            with suppress(FileNotFoundError, FileExistsError):  # given back meanwhile, or taken by a third
                held, tag = self._store.read(self._key)
                say(f"waits {FREE_S:.0f} s for a sign of life of {self._holder(held)}")
                ends = time.monotonic() + FREE_S
                while time.monotonic() < ends:
                    time.sleep(BEAT_S / 4)
                    if self._store.tag(self._key) != tag:
                        raise RunLockedError(f"{self._what} is held by {self._holder(held)}")
                self._tag = self._store.swap(self._key, self._sign(), tag)
        threading.Thread(target=self._beat_on, daemon=True).start()

    def beat(self) -> None:
        """Give a sign of life. RunLockedError where another has taken it."""
        with self._beating:
            self.check()
            try:
                self._tag = self._store.swap(self._key, self._sign(), self._tag)
            except (FileExistsError, FileNotFoundError):
                held, self._tag = self._store.read(self._key)
                if not held.startswith(self._me.encode()):  # else it is a beat of ours whose answer was lost
                    self.lost = RunLockedError(f"{self._what} has been taken by {self._holder(held)}")
                    raise self.lost from None

    def check(self) -> None:
        """Raise RunLockedError if another is known to have taken it."""
        if self.lost is not None:
            raise self.lost

    def release(self) -> None:
        self._end.set()
        with suppress(MettaError, OSError):  # otherwise it is free in FREE_S
            self.beat()
            self._store.delete(self._key)

    def _beat_on(self) -> None:
        while self.lost is None and not self._end.wait(BEAT_S):
            with suppress(MettaError, OSError):  # a store that is away for a while
                self.beat()

    def _sign(self) -> bytes:
        return f"{self._me}, beat {next(self._beats)}".encode()

    def _holder(self, held: bytes) -> str:
        return f"{held.decode(errors='replace').partition(',')[0]}, by {self._key} in {self._store.name}"


def said(error: Exception) -> str:
    """Shorten what a store says to what a user can do something about."""
    text = str(error).partition("\n\nDebug source")[0]
    if "169.254.169.254" in text:  # where it looks for credentials last: there is an answer inside the cloud
        return "no credentials, as in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    answer = re.search(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", text, re.DOTALL)
    return f"{answer[1]}: {answer[2]}" if answer else one_line(text)[:300]
