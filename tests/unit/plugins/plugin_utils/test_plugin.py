# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a user sees of a long run while it goes on."""

from __future__ import annotations

import pytest

from ansible_collections.community.backblaze.plugins.plugin_utils import _plugin


@pytest.fixture
def shown(monkeypatch):
    lines = []
    monkeypatch.setattr(_plugin.display, "display", lines.append)
    return lines


@pytest.mark.parametrize(
    "done, total, seconds, line",
    [
        (1017, 5000, 5.008, "b2_group_members: 1017 of 5000 members, 203.1 a second, about 20 s left"),
        (5000, 5000, 25.0, "b2_group_members: 5000 of 5000 members, 200.0 a second, about 0 s left"),
        # Nothing is known of the rest as long as nobody is done.
        (0, 3, 5.0, "b2_group_members: 0 of 3 members, 0.0 a second"),
        (0, 3, 0.0, "b2_group_members: 0 of 3 members, 0.0 a second"),
    ],
)
def test_a_line_of_progress_says_how_far_it_is_and_how_long_it_takes(shown, done, total, seconds, line):
    _plugin.show_progress(done, total, seconds)
    assert shown == [line]


def test_progress_that_nobody_can_read_any_more_ends_nothing(monkeypatch):
    def gone(_line):
        raise BrokenPipeError

    monkeypatch.setattr(_plugin.display, "display", gone)
    _plugin.show_progress(1, 2, 3.0)
