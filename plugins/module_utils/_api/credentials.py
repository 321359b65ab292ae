# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the credentials file: JSON that only its owner may read. AWX writes such a file for each job."""

from __future__ import annotations

import errno
import json
import os
import stat
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError

#: The bytes of a credentials file, at most. Keys have some dozen characters, so a larger file is another file.
MAX_BYTES = 64 * 1024


def read_credentials(path: str, names: t.Collection[str]) -> dict[str, str]:
    """Return the texts in the file: a JSON object with some of ``names``. Empty texts are left out.

    Raises OptionError. Its message names the file, but nothing of its content: a key may be anywhere in it.
    """
    try:
        return _texts(_read(path), names)
    except _Unfit as exc:
        raise OptionError(f"The credentials file {path} {exc.why}.", remedy=exc.remedy) from None


class _Unfit(Exception):
    """Say why a file is not read, as the end of a sentence that begins with the name of the file."""

    def __init__(self, why: str, remedy: str = "") -> None:
        self.why = why
        self.remedy = remedy
        super().__init__(why)


def _read(path: str) -> bytes:
    """Return the content of a file that only its owner may read and write. Raises _Unfit for another file."""
    try:
        with open(path, "rb", opener=_open) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _Unfit("is not a regular file")
            if found.st_uid != os.geteuid():
                raise _Unfit(
                    f"belongs to user {found.st_uid}, but is read by user {os.geteuid()}",
                    f"Give the file to its reader: chown {os.geteuid()} {path}",
                )
            if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise _Unfit(
                    f"can be read or written by other users than its owner (mode {stat.S_IMODE(found.st_mode):04o})",
                    f"Run: chmod 600 {path}",
                )
            content = file.read(MAX_BYTES + 1)
    except ValueError:
        raise _Unfit("has an invalid name") from None
    except OSError as exc:
        raise _Unfit(
            "is a symlink, which is not followed" if exc.errno == errno.ELOOP else f"cannot be read ({exc.strerror})"
        ) from None
    if len(content) > MAX_BYTES:
        raise _Unfit(f"is larger than {MAX_BYTES // 1024} KiB, so it is some other file")
    return content


def _texts(raw: bytes, names: t.Collection[str]) -> dict[str, str]:
    """Return the texts in the content of a file. Raises _Unfit if the content is invalid."""
    try:
        content = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_once)
    except UnicodeDecodeError:
        raise _Unfit("is not UTF-8 text") from None
    except json.JSONDecodeError as exc:
        remedy = "Let a program write the file: quotes in values must be escaped."
        raise _Unfit(f"is not JSON (line {exc.lineno}, column {exc.colno})", remedy) from None
    except (ValueError, RecursionError):
        # A number with thousands of digits, or thousands of lists in each other.
        raise _Unfit("holds a value that is too long or too deep") from None
    known = f"The names are {', '.join(names)}. The values are texts."
    if not isinstance(content, dict):
        raise _Unfit("is not a JSON object", known)
    if not all(name in names for name in content):
        raise _Unfit("has an unknown name", known)
    wrong = [name for name, value in content.items() if not isinstance(value, str)]
    if wrong:
        raise _Unfit(f"has a value that is not a text ({', '.join(wrong)})", known)
    return {name: value for name, value in content.items() if value}


def _open(path: str, flags: int) -> int:
    # Not blocking, or the task would wait for a named pipe.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _once(pairs: list[tuple[str, t.Any]]) -> dict[str, t.Any]:
    """Return a dictionary of pairs. Raises _Unfit if two pairs have the same name."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise _Unfit("has a name more than once")
    return content
