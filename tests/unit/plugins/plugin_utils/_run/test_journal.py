# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The journal: what a run that ended in the middle leaves for the next one."""

from __future__ import annotations

import dataclasses
import datetime
import errno
import json
import os
import resource
import signal
import stat
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._plan import Event, Open
from ansible_collections.community.backblaze.plugins.module_utils._vault_mode import modes_of
from ansible_collections.community.backblaze.plugins.plugin_utils._run.journal import Journal, is_recent


@pytest.fixture
def directory(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield tmp_path, fd
    os.close(fd)


def reopened(directory, **options):
    path, fd = directory
    journal = Journal(fd, str(path), **options)
    entries = journal.entries("1")
    journal.finish()
    return entries


@pytest.fixture
def journal(directory):
    path, fd = directory
    made = Journal(fd, str(path))
    yield made
    made.finish()


def test_what_is_pending_lost_or_closed_is_so_for_the_next_run(directory, journal):
    for email in ("open@x", "lost@x", "done@x"):
        journal.pending("1", email)
    journal.pending("2", "other@x")
    journal.lost("1", "lost@x", "5f2a1c0b3d4e")
    journal.close("1", "done@x")
    wanted = [Open("open@x", "1"), Open("lost@x", "1", Event.LOST, "5f2a1c0b3d4e")]
    assert journal.entries("1") == wanted
    # Twice: starting a run rewrites the file.
    assert reopened(directory) == wanted
    assert reopened(directory) == wanted
    assert reopened(directory, writable=False) == wanted


def test_what_is_known_of_an_account_is_so_for_the_next_run(directory, journal):
    journal.lost("1", "lost@x", "5f2a1c0b3d4e")
    journal.lost("1", "ejecting@x", "0a1b2c3d4e5f")
    journal.ejecting("1", "ejecting@x", "0a1b2c3d4e5f")
    journal.presumed("1", "presumed@x", "1b2c3d4e5f0a")
    journal.fallback("1", "fallback@x", "2c3d4e5f0a1b", "/else/where")
    wanted = [
        Open("lost@x", "1", Event.LOST, "5f2a1c0b3d4e"),
        Open("ejecting@x", "1", Event.EJECTING, "0a1b2c3d4e5f"),
        Open("presumed@x", "1", Event.PRESUMED, "1b2c3d4e5f0a"),
        Open("fallback@x", "1", Event.FALLBACK, "2c3d4e5f0a1b", "/else/where"),
    ]
    assert journal.entries("1") == wanted
    assert reopened(directory) == reopened(directory) == wanted
    # A recreated address is pending again, without the account that was ejected.
    again = Journal(directory[1], str(directory[0]))
    again.pending("1", "ejecting@x")
    again.finish()
    assert reopened(directory)[1] == Open("ejecting@x", "1")


def test_an_address_is_closed_whether_or_not_that_was_synced(directory, journal, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), fsync(fd)))
    for sync in (True, False):
        journal.pending("1", "done@x")
        synced.clear()
        journal.close("1", "done@x", sync=sync)
        assert len(synced) == sync
        assert journal.entries("1") == reopened(directory, writable=False) == []


@pytest.mark.parametrize("move", ["removed", "replaced"])
def test_what_the_next_run_would_not_find_is_not_written(directory, journal, move):
    journal.pending("1", "open@x")
    os.rename(directory[0] / "journal.jsonl", directory[0] / "moved")
    if move == "replaced":
        (directory[0] / "journal.jsonl").write_text("")
    before = (directory[0] / "moved").read_bytes()
    for append in (
        journal.pending,
        lambda *what: journal.lost(*what, "5f2a1c0b3d4e"),
        lambda *what: journal.ejecting(*what, "5f2a1c0b3d4e"),
    ):
        with pytest.raises(StoreError, match=r"is gone \((No such file|Stale file)"):
            append("1", "other@x")
    # That an address is settled may be lost: the next run settles it again.
    journal.close("1", "open@x")
    journal.close("1", "open@x", sync=False)
    assert journal.entries("1") == [Open("open@x", "1")]
    assert (directory[0] / "moved").read_bytes() == before


def test_pending_is_on_disk_when_the_call_returns(directory, journal):
    journal.pending("1", "open@x")
    assert reopened(directory, writable=False) == [Open("open@x", "1")]


def test_a_new_file_is_on_disk_before_it_replaces_the_old_one(directory, monkeypatch):
    calls = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("dir" if fd == directory[1] else "file"), fsync(fd)))
    monkeypatch.setattr(os, "rename", lambda *names, **options: (calls.append("rename"), rename(*names, **options)))
    Journal(directory[1], str(directory[0])).finish()
    # Once at the start of a run, and once at its end.
    assert calls == ["file", "rename", "dir"] * 2


@pytest.mark.parametrize("hours, recent", [(0, True), (23, True), (25, False), (None, True)])
def test_a_pending_create_may_take_effect_for_a_day(hours, recent):
    """If the time is unknown, it may as well."""
    moment = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=hours or 0)
    at = "" if hours is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert is_recent(Open("open@x", "1", at=at)) is recent


def test_the_file_is_for_its_owner_and_holds_only_what_is_open(directory, journal):
    for number in range(50):
        journal.pending("1", f"m{number}@x")
        journal.close("1", f"m{number}@x")
    journal.pending("1", "open@x")
    reopened(directory)
    file = directory[0] / "journal.jsonl"
    assert [json.loads(line)["email"] for line in file.read_text().splitlines()] == ["open@x"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in directory[0].iterdir()] == ["journal.jsonl"]


def test_a_torn_last_line_was_never_acknowledged(directory, journal):
    journal.pending("1", "open@x")
    with open(directory[0] / "journal.jsonl", "ab") as file:
        file.write(b'{"event": "pending", "email": "torn@x", "gro')
    assert reopened(directory) == [Open("open@x", "1")]


@pytest.mark.parametrize(
    "line",
    [
        b"{broken\n",
        b"\n",
        b"[]\n",
        b"7\n",
        b'{"event": "pending"}\n',
        b"\xff\xfe\n",
        b'{"event": "pending", "email": [], "group_id": "1"}\n',
        # An address names a file: that of another directory is nobody's.
        b'{"event": "pending", "email": "../evil", "group_id": "1"}\n',
        b'{"event": "unknown", "email": "open@x", "group_id": "1"}\n',
        *(
            json.dumps({"event": "pending", "email": "open@x", "group_id": "1", name: 7}).encode() + b"\n"
            for name in ("event", "group_id", "account_id", "path", "at")
        ),
    ],
)
def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(directory, journal, line):
    journal.pending("1", "open@x")
    with open(directory[0] / "journal.jsonl", "ab") as file:
        file.write(line)
    journal.pending("1", "later@x")
    before = (directory[0] / "journal.jsonl").read_bytes()
    with pytest.raises(StoreError, match="Line 2 of the journal") as failed:
        reopened(directory)
    assert "Repair or remove that line." in failed.value.explain()
    assert (directory[0] / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize("marker", ["<<<<<<< HEAD", "||||||| 0a1b2c3", "=======", ">>>>>>> theirs"])
def test_a_merge_conflict_is_named_as_what_it_is(directory, marker):
    lines = [f'{{"event": "pending", "email": "{name}@x", "group_id": "1"}}\n' for name in ("ours", "theirs")]
    (directory[0] / "journal.jsonl").write_text(f"{lines[0]}{marker}\n{lines[1]}")
    with pytest.raises(
        StoreError,
        match=(
            r"Line 2 of the journal .*journal.jsonl is the marker of a merge conflict in Git\. Keep the lines of "
            r"both sides"
        ),
    ):
        reopened(directory)
    # As the message says.
    (directory[0] / "journal.jsonl").write_text("".join(lines))
    assert reopened(directory) == [Open("ours@x", "1"), Open("theirs@x", "1")]


def test_a_run_that_ends_well_leaves_only_what_is_open(directory):
    file = directory[0] / "journal.jsonl"
    for open_ones in (["open@x"], []):
        made = Journal(directory[1], str(directory[0]))
        for email in ("done@x", "open@x"):
            made.pending("1", email)
        made.close("1", "done@x")
        if not open_ones:
            made.close("1", "open@x", sync=False)
        made.finish()
        assert [json.loads(line)["email"] for line in file.read_text().splitlines()] == open_ones
        assert [entry.name for entry in directory[0].iterdir()] == ["journal.jsonl"]


@pytest.mark.parametrize("step", ["open", "write", "fsync", "rename"])
def test_nothing_is_lost_where_the_end_of_a_run_is_interrupted(directory, monkeypatch, step):
    """An error at a step has the same effect as a kill at this step."""
    made = Journal(directory[1], str(directory[0]))
    made.pending("1", "done@x")
    made.pending("1", "open@x")
    made.close("1", "done@x")

    def failing(*_arguments, **_options):
        raise OSError(errno.EIO, "killed")

    with monkeypatch.context() as broken:
        broken.setattr(os, step, failing)
        made.finish()
    assert reopened(directory) == [Open("open@x", "1")]


def test_the_end_of_a_run_does_not_replace_what_somebody_else_has_put_there(directory):
    made = Journal(directory[1], str(directory[0]))
    made.pending("1", "open@x")
    theirs = '{"event": "pending", "email": "theirs@x", "group_id": "1"}\n'
    (directory[0] / "new").write_text(theirs)
    os.rename(directory[0] / "new", directory[0] / "journal.jsonl")
    made.finish()
    assert (directory[0] / "journal.jsonl").read_text() == theirs


def test_without_a_directory_nothing_is_open():
    journal = Journal(-1, "nowhere", writable=False)
    assert journal.entries("1") == []
    journal.finish()


def test_a_symlink_is_not_followed(directory, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("")
    os.symlink(victim, tmp_path / "journal.jsonl")
    with pytest.raises(StoreError):
        reopened(directory)


def test_a_full_disk_stops_the_run_and_leaves_no_half_line(directory):
    path, fd = directory
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
            journal = Journal(fd, str(path))
            try:
                for number in range(100):
                    journal.pending("1", f"m{number}@x")
            except StoreError:
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    content = (path / "journal.jsonl").read_bytes()
    assert 0 < len(content) <= 512
    assert content.endswith(b"\n")
    assert [entry.email for entry in reopened(directory)] == [f"m{number}@x" for number in range(content.count(b"\n"))]


@pytest.mark.parametrize(
    "mode, kept", [(0o600, 0o600), (0o640, 0o640), (0o664, 0o664), (0o777, 0o777), (0o4640, 0o640)]
)
@pytest.mark.parametrize("asked", [None, "0660"])
def test_the_journal_keeps_its_mode_unless_the_user_asks_for_another(directory, mode, kept, asked):
    file = directory[0] / "journal.jsonl"
    file.write_bytes(b"")
    file.chmod(mode)
    reopened(directory, modes=modes_of(asked))
    assert stat.S_IMODE(file.stat().st_mode) == (0o660 if asked else kept)


class Elsewhere:
    """A location that writes down what the journal asks it to publish."""

    def __init__(self):
        self.log, self.fails = [], False

    def publish(self, *paths):
        self.log.append(("publish", *paths))
        if self.fails:
            raise StoreError("No route to host.")

    def later(self, path):
        self.log.append(("later", path))


def test_a_note_is_published_when_it_is_on_disk_and_the_end_of_a_run_with_the_next_files(directory, monkeypatch):
    elsewhere, path = Elsewhere(), os.path.join(str(directory[0]), "journal.jsonl")
    journal = Journal(directory[1], str(directory[0]), location=elsewhere)
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (elsewhere.log.append(("fsync",)), fsync(fd)))
    journal.pending("1", "open@x")
    assert elsewhere.log == [("fsync",), ("publish", path)]
    elsewhere.log.clear()
    journal.close("1", "open@x", sync=False)
    assert elsewhere.log == []
    elsewhere.fails = True
    with pytest.raises(StoreError, match="No route"):
        journal.pending("1", "open@x")
    for quiet in (journal.close, lambda *key: journal.fallback(*key, "5f2a1c0b3d4e", "/path")):
        quiet("1", "open@x")
    elsewhere.log.clear()
    journal.finish()
    assert elsewhere.log == [("fsync",), ("fsync",), ("later", path)]
    elsewhere.log.clear()
    # A journal that is closed is closed.
    journal.finish()
    assert elsewhere.log == []


def test_a_line_that_is_written_in_pieces_is_whole(directory, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    journal = Journal(directory[1], str(directory[0]))
    journal.pending("1", "open@x")
    journal.lost("1", "lost@x", "5f2a1c0b3d4e")
    journal.finish()
    assert reopened(directory) == [Open("open@x", "1"), Open("lost@x", "1", Event.LOST, "5f2a1c0b3d4e")]


def test_a_note_keeps_the_time_of_its_event(directory):
    """Or an address would stay open for ever: each run writes the file again."""
    before = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    journal = Journal(directory[1], str(directory[0]))
    journal.note(Open("old@x", "1", at="2026-01-01T00:00:00Z"))
    journal.pending("1", "new@x")
    journal.finish()
    reopened(directory)
    old, new = reopened(directory)
    assert old.at == "2026-01-01T00:00:00Z"
    moment = datetime.datetime.strptime(new.at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
    assert before <= moment <= datetime.datetime.now(datetime.timezone.utc)


def test_a_line_has_the_fields_that_are_known_and_no_others(directory, journal):
    journal.fallback("1", "fallback@x", "5f2a1c0b3d4e", "/path")
    journal.told("1", "fallback@x", "0a1b2c3d4e5f")
    journal.pending("1", "open@x")
    lines = [json.loads(line) for line in (directory[0] / "journal.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("at")
    known = {"event": "fallback", "email": "fallback@x", "group_id": "1", "path": "/path"}
    assert lines == [
        {**known, "account_id": "5f2a1c0b3d4e"},
        {**known, "account_id": "0a1b2c3d4e5f", "told": True},
        {"event": "pending", "email": "open@x", "group_id": "1"},
    ]


@pytest.mark.parametrize(
    "steps, said",
    [
        (["fsync"], "cannot be written"),
        (["write"], "cannot be written"),
        (["write", "ftruncate"], "cannot be written"),
        (["stat"], "is gone"),
    ],
)
def test_a_note_that_is_not_on_disk_is_an_error_that_names_the_file(directory, journal, monkeypatch, steps, said):
    journal.pending("1", "open@x")

    def failing(*_arguments, **_options):
        raise OSError(errno.EIO, "a bad disk")

    with monkeypatch.context() as broken:
        for step in steps:
            broken.setattr(os, step, failing)
        with pytest.raises(StoreError, match=f"journal.jsonl {said} \\(a bad disk\\)"):
            journal.pending("1", "other@x")
    # A line that was written stays: an address that is open without need costs a look-up.
    expected = ["open@x", "other@x"] if steps == ["fsync"] else ["open@x"]
    assert [entry.email for entry in journal.entries("1")] == expected
    assert [entry.email for entry in reopened(directory, writable=False)] == expected


@pytest.mark.parametrize("step", ["open", "unlink", "rename", "fsync", "write"])
def test_a_run_begins_only_with_a_journal_that_can_be_written(directory, monkeypatch, step):
    made = Journal(directory[1], str(directory[0]))
    made.pending("1", "open@x")
    made.finish()
    real = os.open

    def failing(*arguments, **options):
        # To read the journal is one thing.
        if step == "open" and arguments[0] == "journal.jsonl" and arguments[1] & os.O_ACCMODE == os.O_RDONLY:
            return real(*arguments, **options)
        raise OSError(errno.EROFS, "read-only")

    with monkeypatch.context() as broken:
        broken.setattr(os, step, failing)
        with pytest.raises(StoreError, match=r"journal.jsonl cannot be written \(read-only\)"):
            Journal(directory[1], str(directory[0]))
    assert reopened(directory) == [Open("open@x", "1")]
    assert [entry.name for entry in directory[0].iterdir()] == ["journal.jsonl"]


# Few addresses, so that most notes are about one that is open.
notes = st.tuples(
    st.sampled_from(["pending", "presumed", "lost", "ejecting", "fallback", "told", "told", "close", "unsynced close"]),
    st.sampled_from([("1", "ada@x"), ("1", "ben@x"), ("2", "ada@x")]),
    st.sampled_from(["5f2a1c0b3d4e", "0a1b2c3d4e5f"]),
)
# The notes of each run, and where it is killed: a fraction of the bytes that it appended, or None if it ends well.
runs = st.lists(st.tuples(st.lists(notes, min_size=1, max_size=12), st.none() | st.floats(0, 1)), max_size=4)


def after(entries, kind, key, account):
    """Return the open addresses after one note: a small model of the journal."""
    (group, email), entries = key, dict(entries)
    made = {
        "pending": Open(email, group),
        "presumed": Open(email, group, Event.PRESUMED, account),
        "lost": Open(email, group, Event.LOST, account),
        "ejecting": Open(email, group, Event.EJECTING, account),
        "fallback": Open(email, group, Event.FALLBACK, account, "/path"),
    }
    if kind in made:
        entries[key] = made[kind]
    elif kind == "told" and key in entries and not entries[key].told:
        event = Event.PRESUMED if entries[key].event is Event.PENDING else entries[key].event
        entries[key] = dataclasses.replace(entries[key], event=event, account_id=account, told=True)
    elif "close" in kind:
        entries.pop(key, None)
    return entries


@settings(max_examples=200, deadline=None)
@given(runs)
def test_the_next_run_knows_every_note_that_was_whole_on_disk(all_runs):
    """Kill runs at any byte of what they append, and hold the entries of each next run against a model."""
    with tempfile.TemporaryDirectory() as path, pytest.MonkeyPatch.context() as patched:
        # The machine does not stop, so written bytes stay without a sync.
        patched.setattr(os, "fsync", lambda fd: None)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        file = os.path.join(path, "journal.jsonl")
        model = {}
        try:
            for written, killed_at in all_runs:
                journal = Journal(fd, path)
                # What is known at each size of the file.
                known = {os.path.getsize(file): model}
                for kind, (group, email), account in written:
                    if "close" in kind:
                        journal.close(group, email, sync=kind == "close")
                    elif kind == "pending":
                        journal.pending(group, email)
                    else:
                        getattr(journal, kind)(group, email, account, *(["/path"] if kind == "fallback" else []))
                    model = after(model, kind, (group, email), account)
                    known[os.path.getsize(file)] = model
                if killed_at is None:
                    journal.finish()
                else:
                    end = min(known) + round(killed_at * (max(known) - min(known)))
                    os.truncate(file, end)
                    os.close(journal._fd)
                    model = known[max(size for size in known if size <= end)]
                after_it = Journal(fd, path, writable=False)
                for group in ("1", "2"):
                    assert after_it.entries(group) == [entry for (one, _email), entry in model.items() if one == group]
        finally:
            os.close(fd)
