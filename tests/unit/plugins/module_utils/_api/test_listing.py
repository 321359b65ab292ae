# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Members of several Groups, listed at the same time."""

from __future__ import annotations

import itertools
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._api.partner import _in_threads
from ansible_collections.community.backblaze.plugins.module_utils._errors import ApiError

LIST = "b2_list_group_members"
PATIENCE = 30


@pytest.fixture
def groups(standin):
    """The ids of five Groups with no, one, two, three and four members."""
    return [standin.add_group(f"group-{number}", members=number)["id"] for number in range(5)]


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_members_come_in_the_order_of_the_groups(standin, make_client, groups, at_once):
    client = make_client(standin, connections=at_once)
    members = list(client.each_member_of([*reversed(groups), groups[4]], at_once))
    assert [member.group_id for member in members] == [groups[4]] * 4 + [groups[3]] * 3 + [groups[2]] * 2 + [groups[1]]
    assert client.calls == {"b2_authorize_account": 1, LIST: 5}


def test_an_account_that_moves_meanwhile_is_listed_once(standin, client, groups):
    twin = client.members(groups[1])[0].account_id
    standin.faults(
        [
            {
                "operation": LIST,
                "after": 1,
                "times": None,
                "action": {"kind": "patch", "body": {"groupMembers": {"0": {"accountId": twin}}}},
            }
        ]
    )
    assert [member.group_id for member in client.members_of(groups[1:3])] == [groups[1], groups[2]]
    assert [member.account_id for member in client.members_of(groups[1:3])].count(twin) == 1


@pytest.mark.parametrize("count", [1000, 5000])
def test_reading_ahead_asks_for_no_page_more(standin, client, count):
    group = standin.add_group("big", members=count)
    pages = client.each_member_of([group["id"]])
    assert len({member.account_id for member in pages}) == count
    assert client.calls[LIST] == count // 1000


def test_what_is_wrong_with_a_group_is_raised_in_its_turn(standin, make_client, groups):
    client = make_client(standin, connections=4)
    members = client.each_member_of([groups[2], "none", groups[1]], 4)
    assert [member.group_id for member in itertools.islice(members, 2)] == [groups[2]] * 2
    with pytest.raises(ApiError, match="invalid_group_id"):
        next(members)
    with pytest.raises(StopIteration):
        next(members)


def test_so_many_threads_and_no_more():
    together = threading.Barrier(3, timeout=PATIENCE)
    threads = set()

    def work(number):
        threads.add(threading.current_thread())
        together.wait()
        return -number

    assert list(_in_threads(work, range(6), 3)) == [0, -1, -2, -3, -4, -5]
    assert len(threads) == 3


def test_a_defect_is_not_taken_for_an_end():
    def work(number):
        if number:
            raise RuntimeError("a defect")

    values = _in_threads(work, [0, 1], 1)
    assert next(values) is None
    with pytest.raises(RuntimeError, match="a defect"):
        next(values)


def test_who_leaves_early_does_not_wait():
    release = threading.Event()
    begun = []

    def work(number):
        begun.append(number)
        if number:
            release.wait(PATIENCE)

    values = _in_threads(work, range(4), 1)
    next(values)
    started = time.monotonic()
    values.close()
    assert time.monotonic() - started < PATIENCE / 2
    release.set()
    time.sleep(0.05)
    assert begun in ([0], [0, 1])


def test_who_ends_python_does_not_wait():
    """As ansible-inventory does after Ctrl-C; threads of a ThreadPoolExecutor would be waited for."""
    code = f"""
import time
from {_in_threads.__module__} import _in_threads
values = _in_threads(lambda number: number and time.sleep({PATIENCE * 2}), range(3), 2)
next(values)
raise KeyboardInterrupt
"""
    started = time.monotonic()
    # Wherever the tests run: a child process does not have the import path of this one.
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[8])}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE * 2, check=False)
    assert "KeyboardInterrupt" in ended.stderr
    assert time.monotonic() - started < PATIENCE


def test_nothing_to_list():
    assert list(_in_threads(abs, [], 4)) == []
