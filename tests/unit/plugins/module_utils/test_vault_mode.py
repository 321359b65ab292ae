# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a mode may be, and what it is for files and directories."""

from __future__ import annotations

import pytest
import yaml

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import PRIVATE, modes_of


@pytest.mark.parametrize(
    ("value", "file", "directory"),
    [
        ("0600", 0o600, 0o700),
        ("640", 0o640, 0o750),
        ("0660", 0o660, 0o770),
        ("0o664", 0o664, 0o775),
        ("0620", 0o620, 0o720),
        ("u=rw,g=r", 0o640, 0o750),
        ("u=rw,g=rw,o=", 0o660, 0o770),
        ("g+rw", 0o660, 0o770),
        ("ug=rw,o=r", 0o664, 0o775),
        ("a=rw,o-w", 0o664, 0o775),
        ("a+r,g-r", 0o604, 0o705),
    ],
)
def test_directories_get_x_where_files_get_r(value, file, directory):
    modes = modes_of(value)
    assert (modes.file, modes.directory, modes.given) == (file, directory, True)


def test_without_a_mode_all_is_for_the_owner():
    assert modes_of(None) == PRIVATE == (0o600, 0o700, False)


@pytest.mark.parametrize("text", ["0640", "640", "0o640", "6.4", "true", "[0640]"])
def test_what_is_no_text_is_refused_with_the_reason(text):
    with pytest.raises(OptionError, match=r"which is not text.*in quotes.*0640 as an octal number") as refused:
        modes_of(yaml.safe_load(text) if text != "0o640" else 0o640)
    assert 'vault_mode: "0640"' in str(refused.value)


@pytest.mark.parametrize(
    "value", ["0700", "1660", "02660", "4600", "u=rwx", "g=rX", "u=rws", "o+t", "u=rw,g=u", "0661"]
)
def test_only_read_and_write_can_be_given(value):
    with pytest.raises(OptionError, match="other bits than r and w"):
        modes_of(value)


@pytest.mark.parametrize("value", ["0400", "0060", "000", "u=r", "u-w", "u="])
def test_the_owner_keeps_both(value):
    with pytest.raises(OptionError, match="from the owner"):
        modes_of(value)


@pytest.mark.parametrize(
    "value",
    ["", "60", "0680", "rw", "u", "u=rw g=r", "u=rw,", "=rw", "x=r", "0640\n", "preserve", "u=r+w", "-0640", "0640 "],
)
def test_what_is_no_mode_is_refused(value):
    with pytest.raises(OptionError, match="is invalid"):
        modes_of(value)
