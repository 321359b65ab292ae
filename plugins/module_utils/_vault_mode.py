# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read the option ``vault_mode``: the mode of new files and directories in a vault directory."""

from __future__ import annotations

import os
import re
import stat
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError

_OCTAL = re.compile(r"(?:0o)?([0-7]{3,5})")
_CLAUSE = re.compile(r"([ugoa]+)([=+-])([a-zA-Z]*)")
_WHO = {"u": 0o700, "g": 0o070, "o": 0o007, "a": 0o777}
_WHAT = {"r": 0o444, "w": 0o222}
_REMEDY = (
    'Write it in quotes as for ansible.builtin.file, such as vault_mode: "0640" or vault_mode: "u=rw,g=r". '
    "Without quotes YAML reads 0640 as an octal number, which is 416, and 640 as another one."
)


class Modes(t.NamedTuple):
    """The modes of new files and directories. given: whether the user asked for them."""

    file: int = 0o600
    directory: int = 0o700
    given: bool = False

    def allow_file(self, fd: int) -> None:
        """Give an open file its mode, whatever the umask is."""
        if self.given:
            os.fchmod(fd, self.file)

    def allow_directory(self, fd: int) -> None:
        """Give an open directory its mode, whatever the umask is; setgid stays as the kernel has inherited it."""
        if self.given:
            os.fchmod(fd, self.directory | (os.fstat(fd).st_mode & stat.S_ISGID))


#: For the owner alone.
PRIVATE = Modes()


def modes_of(value: t.Any) -> Modes:
    """Return the modes that the option asks for. Raises OptionError for an invalid value."""
    if value is None:
        return PRIVATE
    if not isinstance(value, str):
        raise OptionError(f"vault_mode is {value!r}, which is not text.", remedy=_REMEDY)
    octal = _OCTAL.fullmatch(value)
    mode = int(octal.group(1), 8) if octal else _symbolic(value)
    if mode & ~0o666:
        raise OptionError(
            f"vault_mode {value!r} has other bits than r and w. Directories get x where files get r.", remedy=_REMEDY
        )
    if mode & 0o600 != 0o600:
        raise OptionError(
            f"vault_mode {value!r} takes r or w from the owner, who could not store the next key.", remedy=_REMEDY
        )
    return Modes(mode, mode | (mode & 0o444) >> 2, given=True)


def _symbolic(value: str) -> int:
    """Return the mode 0600 as a symbolic mode changes it."""
    mode = PRIVATE.file
    for clause in value.split(","):
        parts = _CLAUSE.fullmatch(clause)
        if not parts:
            raise OptionError(f"vault_mode {value!r} is invalid.", remedy=_REMEDY)
        who, operator, what = parts.groups()
        if set(what) - set(_WHAT):
            # A mode that modes_of refuses with its reason.
            return 0o1000
        mask = bits = 0
        for letter in who:
            mask |= _WHO[letter]
        for letter in what:
            bits |= _WHAT[letter] & mask
        mode = mode & ~bits if operator == "-" else (mode & ~mask if operator == "=" else mode) | bits
    return mode
