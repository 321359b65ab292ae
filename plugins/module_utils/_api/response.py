# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read one HTTP response, so that its end is certain, and the request that it answers.

``http.client`` has three weaknesses. An interim response (102, 103) counts as the final one, so that the next request
on the connection reads the final one. Bytes behind a response are thrown away unseen. The time limit begins again with
each byte.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
import typing as t

_SWITCHING_PROTOCOLS = 101


class _Socket(io.RawIOBase):
    """Read the bytes of a socket until a deadline. ``ended``: whether to report the end of the stream from now on."""

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
        """Tell whether a layer above the socket may have bytes: TLS may have fetched bytes that were not read."""
        if hasattr(self._socket, "pending"):
            return bool(self._socket.pending())
        # TLS within TLS, through a proxy, is not a socket and has no such method.
        return not isinstance(self._socket, socket.socket)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Reader(io.BufferedReader):
    """Keep, when closed, the bytes that had arrived and were not read."""

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
    """Read a response with one deadline for its last byte: the timeout of the socket, counted from the request.

    Interim responses (1xx), except 101, are skipped. Reading raises socket.timeout after the deadline.
    """

    def __init__(self, sock: t.Any, *args: t.Any, **options: t.Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self._reader = _Reader(_Socket(sock))
        self.fp = self._reader

    def begin(self) -> None:
        """Read the head without invalid lengths: urllib3 would refuse the answer, and a key in it would be lost."""
        super().begin()
        lengths = {length.strip() for length in self.headers.get_all("Content-Length") or []}
        if len(lengths) > 1 or not all(map(str.isdecimal, lengths)):
            del self.headers["Content-Length"]
            self.length = None

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]  # not in the type stubs
            if not 100 <= status < 200 or status == _SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)

    def end(self) -> bytes:
        """Stop reading. Return the bytes that arrived behind the end of the body, which no request asked for."""
        self.close()
        return self._reader.rest

    def is_certain(self, size: int) -> bool:
        """Tell whether the response ended where its headers say, and nothing came behind it. Call this after ``end``.

        Only then may its connection be used again. size: the bytes of the body that were read.
        """
        lengths = self.headers.get_all("Content-Length") or []
        encodings = self.headers.get_all("Transfer-Encoding") or []
        framed = (self.chunked and len(encodings) == 1 and not lengths) or (lengths == [str(size)] and not encodings)
        return (
            framed
            and self.version == 11
            and not self.headers.defects
            and not self._reader.rest
            and not self._reader.pending
        )
