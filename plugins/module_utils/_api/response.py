# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read one HTTP response, so that it is certain where it ends and which request it answers.

``http.client`` does three things that put requests and responses out of step, or let a server hold a thread for long. It takes an
interim response (102, 103) for the final one, and the next request on that connection then reads the final one. It throws away what
arrived behind a response, unseen. And its time limit begins anew with each byte.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
import typing as t

# A server that sends more of these than this has no answer.
_MOST_INTERIM_RESPONSES = 256
_SWITCHING_PROTOCOLS = 101


class _Socket(io.RawIOBase):
    """The bytes of a socket, until a deadline. ``ended``: from now on pretend that there are no more."""

    def __init__(self, sock: t.Any) -> None:
        self._socket = sock
        self._file = sock.makefile("rb", buffering=0)
        self._deadline = time.monotonic() + sock.gettimeout()
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: t.Any) -> t.Optional[int]:
        if self.ended:
            return 0
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise socket.timeout("timed out")
        self._socket.settimeout(remaining)
        return t.cast("t.Optional[int]", self._file.readinto(buffer))

    def pending(self) -> bool:
        """Tell whether there are, or may be, bytes in a layer above the socket: what TLS has fetched and nobody has read."""
        if hasattr(self._socket, "pending"):
            return bool(self._socket.pending())
        # TLS within TLS, through a proxy, is not a socket and does not say.
        return not isinstance(self._socket, socket.socket)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Reader(io.BufferedReader):
    """Notes, when it is closed, what had arrived and was not read."""

    def __init__(self, raw: _Socket) -> None:
        super().__init__(raw)
        self._source = raw
        self.rest = b""
        self.pending = False

    def close(self) -> None:
        if not self.closed:
            self._source.ended = True
            self.rest = self.peek(1)
            self.pending = self._source.pending()
        super().close()


class Response(http.client.HTTPResponse):
    """A response with one deadline: the timeout of its socket, counted from when the request was sent to the last byte.

    Every interim response (1xx) but 101 is skipped. Reading raises socket.timeout when the deadline has passed.
    """

    def __init__(self, sock: t.Any, *args: t.Any, **options: t.Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self._reader = _Reader(_Socket(sock))
        self.fp = self._reader
        self._lengths: list[str] = []

    def _read_status(self) -> tuple[str, int, str]:
        for _number in range(_MOST_INTERIM_RESPONSES):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # not in the type stubs
            if not 100 <= status < 200 or status == _SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.BadStatusLine("too many interim responses")

    def begin(self) -> None:
        """Read the head. What it says of a length that is none is taken out: urllib3 would refuse the whole answer for it, unread."""
        super().begin()
        self._lengths = [value.strip() for value in self.headers.get_all("Content-Length") or []]
        if len(set(self._lengths)) > 1 or not all(map(str.isdecimal, self._lengths)):
            del self.headers["Content-Length"]
            self.length = None
            self.will_close = True

    def end(self) -> bytes:
        """Stop reading, and return what arrived behind the end of the body: part of something that was not asked for."""
        self.close()
        return self._reader.rest

    def is_certain(self, size: int) -> bool:
        """Tell whether this response, of which so many bytes of body were read, ended where its headers say, and nothing came behind it.

        Only then may its connection be used again. To be called after ``end``.
        """
        encodings = self.headers.get_all("Transfer-Encoding") or []
        framed = (self.chunked and len(encodings) == 1 and not self._lengths) or (
            self._lengths == [str(size)] and not encodings
        )
        return (
            framed
            and self.version == 11
            and not self.headers.defects
            and not self._reader.rest
            and not self._reader.pending
        )
