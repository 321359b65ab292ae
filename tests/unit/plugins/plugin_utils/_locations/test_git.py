# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Test a vault directory in a Git repository, also while somebody else pushes. Repositories and git are real."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time

import pytest

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._lease import Claim, new_lease
from ansible_collections.community.backblaze.plugins.module_utils._options import ENVIRONMENT, LOCATION_SPEC
from ansible_collections.community.backblaze.plugins.plugin_utils._locations import choose, git_command
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.git import Repository
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.git import _blob as blob
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.git_command import (
    Git,
    without_password,
    without_userinfo,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.git_lease import GitLease
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.remote import Change
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.remote_copy import RemoteCopy
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.sealer import Sealer
from ansible_collections.community.backblaze.plugins.plugin_utils._stores.vault_dir import VaultDir

ADA, BEN = "ada@x.example/b2_vault.yml", "ben@x.example/b2_vault.yml"
JOURNAL = ".b2_members/1/journal.jsonl"
LOCK = "refs/heads/b2-members-lock/1"
NEW = frozenset([""])


def git(*arguments, cwd, **environment):
    """Run git as somebody."""
    env = {**{name: value for name, value in os.environ.items() if not name.startswith("GIT_")}, **environment}
    named = (
        "-c",
        "user.name=x",
        "-c",
        "user.email=x@x",
        "-c",
        "init.defaultBranch=main",
        "-c",
        "protocol.file.allow=always",
    )
    return subprocess.run(
        ["git", *named, *arguments], cwd=cwd, env=env, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def origin(tmp_path):
    path = tmp_path / "origin.git"
    path.mkdir()
    git("init", "--bare", "--quiet", cwd=path)
    return path


@pytest.fixture
def remote(tmp_path, origin):
    def make(folder="keys", branch="", url=origin, **options):
        directory = tmp_path / os.urandom(4).hex()
        (directory / "repository").mkdir(parents=True)
        return Repository(str(directory), str(url), branch, folder, **options)

    return make


@pytest.fixture
def pushed(tmp_path, origin):
    """Push a file, or something odd, as somebody else does."""
    clone = tmp_path / "clone"

    def push(path, content="", link=""):
        if not clone.exists():
            git("clone", "--quiet", str(origin), str(clone), cwd=tmp_path)
        if git("ls-remote", "origin", "main", cwd=clone):
            git("pull", "--quiet", "--rebase", "origin", "main", cwd=clone)
        file = clone / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if link:
            file.symlink_to(link)
        else:
            file.write_text(content)
        git("add", "--all", cwd=clone)
        git("commit", "--quiet", "-m", f"push {path}", cwd=clone)
        git("push", "--quiet", "origin", "HEAD:main", cwd=clone)

    return push


def shown(origin, path):
    return git("show", f"main:{path}", cwd=origin)


def put(remote, **files):
    """Write files by their short names; return what was refused."""
    paths = {"ada": ADA, "ben": BEN, "journal": JOURNAL}
    return remote.write({paths[name]: Change(text.encode(), NEW) for name, text in files.items()}, ()).refused


@pytest.mark.parametrize("folder", ["keys", "a b/'c\"", "a\nD a\n#\\", ""])
def test_what_is_written_is_what_the_next_one_reads(remote, origin, folder):
    one = remote(folder)
    assert not one.read({}).exists
    assert not put(one, ada="A", journal="J") and not put(one, ben="B")
    found = remote(folder).read({})
    assert found.files == {ADA: b"A", BEN: b"B", JOURNAL: b"J"} and found.exists and not found.obstacles
    subjects = git("log", "--format=%s", "main", cwd=origin).splitlines()
    assert subjects == ["Seal keys of Backblaze members (1 files)"] * 2
    # What is there already is no commit.
    again = remote(folder)
    again.read({})
    assert not put(again, ben="B") and git("log", "--format=%s", "main", cwd=origin).splitlines() == subjects


def test_only_ours_is_read_and_what_is_in_the_way_is_named(remote, pushed):
    pushed(f"keys/{ADA}", "A")
    pushed("keys/all/vars.yml", "a: b")
    pushed("keys/plain@x", "")
    pushed("keys/link@x", link="plain@x")
    pushed("keys/inner@x/b2_vault.yml", link="../plain@x")
    pushed("keys/dir@x/b2_vault.yml/file", "")
    found = remote().read({})
    assert found.files == {ADA: b"A"}
    assert found.obstacles == {
        "plain@x": "file",
        "link@x": "symlink",
        "inner@x/b2_vault.yml": "symlink",
        "dir@x/b2_vault.yml": "directory",
    }


@pytest.mark.parametrize(
    ("folder", "said"), [("keys", "is a symlink"), ("keys/in", "is a symlink"), ("file", "not a directory")]
)
def test_a_directory_that_is_none_is_refused(remote, pushed, folder, said):
    pushed("file", "")
    pushed("keys", link="file")
    with pytest.raises(StoreError, match=said):
        remote(folder).read({})


def test_a_refused_push_is_repeated_on_top_of_the_commits_of_others(remote, origin, pushed):
    one = remote()
    pushed("readme", "1")
    one.read({})
    pushed("readme", "2")
    pushed(f"keys/{BEN}", "of somebody else")
    assert not put(one, ada="A")
    assert (shown(origin, "readme"), shown(origin, f"keys/{ADA}"), shown(origin, f"keys/{BEN}")) == (
        "2",
        "A",
        "of somebody else",
    )


def test_a_file_that_somebody_else_has_changed_is_not_replaced(remote, origin, pushed):
    one = remote()
    one.read({})
    assert not put(one, journal="J")
    pushed(f"keys/{ADA}", "of somebody else")
    pushed(f"keys/{JOURNAL}", "edited")
    refused = put(one, ada="A", ben="B", journal="JJ")
    assert (
        set(refused) == {ADA, JOURNAL}
        and shown(origin, f"keys/{ADA}") == "of somebody else"
        and shown(origin, f"keys/{BEN}") == "B"
    )
    # The same as ours is ours: a push whose answer was lost.
    pushed(f"keys/{ADA}", "A")
    assert set(put(one, ada="A")) == set()


@pytest.mark.parametrize("branch", ["", "main"])
def test_a_branch_that_was_deleted_is_made_with_what_is_written(remote, origin, pushed, branch):
    pushed("readme", "1")
    pushed("readme", "2")
    one = remote(branch=branch)
    one.read({})
    assert not put(one, journal="J", ada="A")
    # Else a server takes the same commits once more, as long as it has them.
    git("config", "receive.denyDeletes", "false", cwd=origin)
    git("update-ref", "-d", "refs/heads/main", cwd=origin)
    git("reflog", "expire", "--expire=now", "--all", cwd=origin)
    git("gc", "--quiet", "--prune=now", cwd=origin)
    assert not one.write({JOURNAL: Change(b"JJ", frozenset([blob(b"J")]))}, ()).refused
    assert shown(origin, f"keys/{JOURNAL}") == "JJ"
    git("update-ref", "-d", "refs/heads/main", cwd=origin)
    found = one.read({})
    assert not found.exists and not found.paths
    assert not put(one, ada="A", ben="B") and (shown(origin, f"keys/{ADA}"), shown(origin, f"keys/{BEN}")) == ("A", "B")


def test_a_branch_that_was_set_back_takes_what_is_written(remote, origin, pushed):
    """What was there before is nobody else's change, unless somebody else has changed it."""
    pushed(f"keys/{JOURNAL}", "old")
    one = remote()
    one.read({})
    assert not one.write({JOURNAL: Change(b"J", frozenset([blob(b"old")])), ADA: Change(b"A", NEW)}, ()).refused
    git("update-ref", "refs/heads/main", "main^", cwd=origin)
    assert (
        not one.write({JOURNAL: Change(b"JJ", frozenset([blob(b"J")]))}, ()).refused
        and shown(origin, f"keys/{JOURNAL}") == "JJ"
    )
    pushed(f"keys/{JOURNAL}", "edited")
    assert set(one.write({JOURNAL: Change(b"JJJ", frozenset([blob(b"JJ")]))}, ()).refused) == {JOURNAL}


def test_a_branch_is_read_with_one_command_for_the_server(remote, monkeypatch):
    one = remote()
    one.read({})
    assert not put(one, ada="A", ben="B")
    ask, asked = Git.ask, []

    def note(self, *arguments, **given):
        asked.append(arguments[0])
        return ask(self, *arguments, **given)

    monkeypatch.setattr(Git, "ask", note)
    found = one.read({ADA: blob(b"A"), BEN: blob(b"B")})
    assert not found.files and found.paths == {ADA, BEN}
    assert [name for name in asked if name in ("ls-remote", "fetch", "push")] == ["fetch"]


def test_a_repository_that_refuses_says_why(remote, origin):
    one = remote()
    one.read({})
    hook = origin / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho Closed for today.\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(StoreError, match=r"push to .* failed .*Closed for today"):
        put(one, ada="A")
    with pytest.raises(StoreError, match=r"push to .* failed .*Closed for today"):
        one.claim("1", new_lease(), "")
    hook.unlink()
    assert not put(one, ada="A")


RULES = """#!/bin/sh
while read old new ref; do
    case "$ref" in refs/heads/main|refs/heads/ops/locks/*) ;; *) echo "no branch $ref"; exit 1;; esac
    expr "$new" : '0*$' > /dev/null && continue
    git log -1 --format=%s "$new" | grep -q '^OPS-7 ' || { echo "no ticket in the subject"; exit 1; }
done
"""


def test_a_server_may_have_rules_for_subjects_and_branches(remote, origin):
    hook = origin / "hooks" / "pre-receive"
    hook.write_text(RULES)
    hook.chmod(0o755)
    message = "OPS-7 {keys} keys, {other}"
    refused = [({}, "no branch"), ({"message": message}, "no branch"), ({"lock_branch": "ops/locks"}, "no ticket")]
    for options, said in refused:
        one = remote(**options)
        one.read({})
        with pytest.raises(StoreError, match=said):
            one.claim("1", new_lease(), "")
    one = remote(message=message, lock_branch="ops/locks")
    one.read({})
    lease = new_lease()
    assert one.claim("1", lease, "").ours and one.refresh() is None and one.peek("1") == lease
    found = git("for-each-ref", "--format=%(refname) %(subject)", cwd=origin)
    assert found == "refs/heads/ops/locks/1 OPS-7 0 keys, {other}\n"
    assert not put(one, journal="J") and not put(one, ada="A", ben="B")
    subjects = git("log", "--format=%s", "main", cwd=origin).splitlines()
    assert subjects == ["OPS-7 2 keys, {other}", "OPS-7 0 keys, {other}"]
    one.release()
    assert git("for-each-ref", "--format=%(refname)", cwd=origin).split() == ["refs/heads/main"]


@pytest.mark.parametrize("branch", ["locks", "locks/keys", "a"])
def test_the_branch_of_a_lease_is_not_in_the_way_of_that_of_the_keys(remote, branch):
    with pytest.raises(OptionError, match=f"is in the way of branch {branch}"):
        remote(branch=branch, lock_branch="a/locks" if branch == "a" else "locks").read({})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("vault_git_lock_branch", name) for name in ("-a", ".a", "a//b", "/a", "a/", "a..b", "a.")),
        *(("vault_git_lock_branch", name) for name in ("a.lock/b", "b/a.lock")),
        *(("vault_git_lock_branch", name) for name in ("a b", "a:b", "a*", "a\n", "@{u}", "ä")),
        *(("vault_git_message", text) for text in (" ", "Seal\nkeys", "Seal\u200bkeys", "\ud800")),
    ],
)
def test_what_is_no_subject_or_no_name_of_a_branch_is_refused(tmp_path, option, value):
    given = {name: None for name in LOCATION_SPEC if name.startswith("vault_git_")}
    given["vault_git_repo"] = "ssh://x/y"
    assert choose._repository(None, given, str(tmp_path), "keys")
    with pytest.raises(OptionError, match=f"{option} .*is not"):
        choose._repository(None, {**given, option: value}, str(tmp_path), "keys")


@pytest.mark.parametrize(("branch", "lock_branch"), [("locks", "locks"), ("a", "a/locks"), ("locks/1/x", "locks")])
def test_a_branch_that_is_in_the_way_of_a_lease_is_no_other_run(remote, pushed, origin, branch, lock_branch):
    pushed("readme")
    git("branch", branch, "main", cwd=origin)
    one = remote(lock_branch=lock_branch)
    one.read({})
    said = rf"push of branch {lock_branch}/1 to .+ failed \(.+\)"
    with pytest.raises(StoreError, match=said) as refused:
        one.claim("1", new_lease(), "")
    assert "name another vault_git_lock_branch" in refused.value.remedy


def test_a_branch_that_is_no_lease_is_neither_taken_over_nor_deleted(remote, pushed, origin):
    pushed("readme")
    git("branch", "locks/1", "main", cwd=origin)
    one = remote(lock_branch="locks")
    one.read({})
    with pytest.raises(StoreError, match=r"The branch locks/1 of .* has files, so it is not a lease"):
        one.claim("1", new_lease(), "")
    assert git("rev-parse", "locks/1", cwd=origin) == git("rev-parse", "main", cwd=origin)


def test_a_run_that_was_faster_and_is_over_is_in_nobodys_way(remote, monkeypatch):
    one, other = remote(), remote()
    for each in (one, other):
        each.read({})
    put = GitLease._push

    def late(self, there):
        monkeypatch.setattr(GitLease, "_push", put)
        assert other.claim("1", new_lease(), "").ours
        problem = put(self, there)
        other.release()
        assert problem
        return problem

    monkeypatch.setattr(GitLease, "_push", late)
    assert one.claim("1", new_lease(), "") == Claim(True)


def test_a_path_on_another_machine_is_named_without_its_password(tmp_path):
    given = {name: None for name in LOCATION_SPEC if name.startswith("vault_git_")}
    given["vault_git_repo"] = "file://ada:hunter2@srv1/keys.git"
    with pytest.raises(OptionError, match=r"vault_git_repo file://srv1/keys\.git names a path on another machine"):
        choose._repository(None, given, str(tmp_path), "keys")


def test_a_branch_that_only_begins_like_that_of_a_lease_is_fit_for_keys(remote):
    assert not remote(branch="locks2", lock_branch="locks").read({}).exists


def test_a_lease_is_held_by_one(remote, origin):
    one, other = remote(), remote()
    lease = new_lease()
    for each in (one, other):
        each.read({})
    assert one.claim("1", lease, "") == Claim(True)
    there = git("rev-parse", LOCK, cwd=origin)
    found = other.claim("1", new_lease(), "")
    assert not found.ours and found.other == lease and git("rev-parse", LOCK, cwd=origin) == there
    assert one.refresh() is None
    one.release()
    assert "b2-members-lock" not in git("for-each-ref", cwd=origin)
    assert other.claim("1", new_lease(), "").ours


@pytest.mark.parametrize("rewriting", [True, False])
def test_three_runs_one_after_another_do_not_wait_where_no_branch_can_be_deleted(remote, origin, tmp_path, rewriting):
    git("config", "receive.denyDeletes", "true", cwd=origin)
    git("config", "receive.denyNonFastForwards", str(not rewriting).lower(), cwd=origin)
    for number in range(3):
        location = RemoteCopy(str(tmp_path / f"copy{number}"), remote())
        location.fetch()
        with location.lease("1", 0, time.sleep):
            location._refresh()
            other = remote()
            other.read({})
            assert not other.claim("1", new_lease(), "").ours
        assert '"released": true' in git("log", "-1", "--format=%B", LOCK, cwd=origin)
        assert location.notes == []


def test_who_is_at_a_group_can_be_asked(remote, origin, tmp_path, secrets, monkeypatch):
    location = RemoteCopy(str(tmp_path / "copy"), remote())
    location.fetch()
    directory = VaultDir(location.copy, Sealer(secrets), location)
    assert directory.holder("1") == "" and not git("for-each-ref", cwd=origin)
    one = remote()
    one.read({})
    lease = new_lease()
    assert one.claim("1", lease, "").ours
    before = git("for-each-ref", cwd=origin)
    assert directory.holder("1") == str(lease) and directory.holder("2") == ""
    with location.lease("2", 0, time.sleep):
        # The lease that it holds itself stays so.
        assert directory.holder("1") == str(lease) and location._remote.refresh() is None
    assert git("for-each-ref", cwd=origin) == before
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda now=time.time: now() + 601)
        assert directory.holder("1") == ""
    git("config", "receive.denyDeletes", "true", cwd=origin)
    one.release()
    assert directory.holder("1") == ""
    assert one.claim("1", dataclasses.replace(lease, pid=2**22 + 1), "").ours and directory.holder("1") == ""


def test_who_was_taken_over_does_not_take_a_released_lease_for_a_held_one(remote, origin):
    git("config", "receive.denyDeletes", "true", cwd=origin)
    one, other = remote(), remote()
    lease = new_lease()
    for each in (one, other):
        each.read({})
    assert one.claim("1", lease, "").ours and other.claim("1", new_lease(), lease.id).ours
    other.release()
    assert one.refresh() is None and one.refresh() is None


@pytest.mark.parametrize(("seconds", "ours"), [(3600, True), (300, False), (-300, False), (-3600, True)])
def test_a_lease_that_was_dated_long_ago_or_long_from_now_is_stale(remote, origin, seconds, ours):
    one, other = remote(), remote()
    for each in (one, other):
        each.read({})
    assert one.claim("1", new_lease(), "").ours
    message = git("log", "-1", "--format=%B", LOCK, cwd=origin)
    date = f"@{int(time.time()) + seconds} +0000"
    commit = git("commit-tree", f"{LOCK}^{{tree}}", "-m", message, cwd=origin, GIT_COMMITTER_DATE=date)
    git("update-ref", LOCK, commit.strip(), cwd=origin)
    assert other.claim("1", new_lease(), "").ours == ours


def test_who_was_taken_over_hears_of_it_with_the_next_push(remote, origin):
    one, other = remote(), remote()
    lease, theirs = new_lease(), dataclasses.replace(new_lease(), pid=4711)
    one.read({})
    other.read({})
    assert one.claim("1", lease, "").ours
    taken = other.claim("1", theirs, lease.id)
    assert taken.ours and taken.other == lease
    written = one.write({ADA: Change(b"A", NEW)}, ())
    assert written.holder == theirs and not written.refused and shown(origin, f"keys/{ADA}") == "A"
    assert one.refresh() == theirs
    # It is not ours to give up.
    with pytest.raises(StoreError):
        one.release()
    assert other.refresh() is None


@pytest.fixture
def overtaken(remote):
    """Return a repository that has pushed a journal and then lost its lease unnoticed, and the other run's lease."""
    one, other = remote(), remote()
    lease, theirs = new_lease(), dataclasses.replace(new_lease(), pid=4711)
    one.read({})
    assert one.claim("1", lease, "").ours and not put(one, journal="J")
    other.read({})
    assert other.claim("1", theirs, lease.id).ours
    return one, theirs


def test_what_is_kept_about_a_group_is_not_pushed_without_its_lease(overtaken, origin):
    one, theirs = overtaken
    written = one.write({ADA: Change(b"A", NEW), JOURNAL: Change(b"JJ", frozenset([blob(b"J")]))}, ())
    assert written.holder == theirs and set(written.refused) == {JOURNAL}
    assert (shown(origin, f"keys/{ADA}"), shown(origin, f"keys/{JOURNAL}")) == ("A", "J")


def test_a_lost_lease_is_not_forgotten_where_the_push_after_it_fails(overtaken, origin, monkeypatch):
    one, theirs = overtaken
    ask, pushes = Git.ask, []

    def second_fails(self, *arguments, **given):
        if arguments[0] == "push":
            pushes.append(arguments)
            if len(pushes) == 2:
                raise StoreError("git push did not end within 120 seconds.")
        return ask(self, *arguments, **given)

    monkeypatch.setattr(Git, "ask", second_fails)
    changes = {ADA: Change(b"A", NEW), JOURNAL: Change(b"JJ", frozenset([blob(b"J")]))}
    with pytest.raises(StoreError, match="120 seconds"):
        one.write(changes, ())
    written = one.write(changes, ())
    assert written.holder == theirs and set(written.refused) == {JOURNAL} and shown(origin, f"keys/{JOURNAL}") == "J"


def test_without_pushes_of_all_or_nothing_keys_are_pushed_all_the_same(remote, origin):
    git("config", "receive.advertiseAtomic", "false", cwd=origin)
    one, other = remote(), remote()
    lease, theirs = new_lease(), dataclasses.replace(new_lease(), pid=4711)
    for each in (one, other):
        each.read({})
    assert one.claim("1", lease, "").ours and not put(one, ada="A") and shown(origin, f"keys/{ADA}") == "A"
    assert other.claim("1", theirs, lease.id).ours
    assert one.write({BEN: Change(b"B", NEW)}, ()).holder == theirs and shown(origin, f"keys/{BEN}") == "B"


def test_what_was_pushed_without_an_answer_is_ours(remote, origin, monkeypatch):
    """A push that is accepted, and whose answer does not arrive."""
    one = remote()
    one.read({})
    assert one.claim("1", new_lease(), "").ours
    ask = Git.ask

    def lose(self, *arguments, **given):
        answer = ask(self, *arguments, **given)
        if arguments[0] == "push":
            raise StoreError("git push did not end within 120 seconds.")
        return answer

    for write in (lambda: put(one, journal="J"), one.refresh):
        monkeypatch.setattr(Git, "ask", lose)
        with pytest.raises(StoreError, match="120 seconds"):
            write()
        monkeypatch.setattr(Git, "ask", ask)
    assert shown(origin, f"keys/{JOURNAL}") == "J"
    # What was written meanwhile is to replace either.
    assert (
        not one.write({JOURNAL: Change(b"JJ", frozenset(["", blob(b"J")]))}, ()).refused
        and shown(origin, f"keys/{JOURNAL}") == "JJ"
    )
    there = git("rev-parse", LOCK, cwd=origin)
    # Commits are dated by the second.
    time.sleep(1.1)
    assert one.refresh() is None and git("rev-parse", LOCK, cwd=origin) != there, "the lease is not kept any more"
    one.release()
    assert "b2-members-lock" not in git("for-each-ref", cwd=origin)


def test_nothing_dates_a_lease_or_makes_another_kind_of_repository(remote, origin, monkeypatch):
    for name in ("GIT_COMMITTER_DATE", "GIT_AUTHOR_DATE"):
        monkeypatch.setenv(name, "@1000000000 +0000")
    monkeypatch.setenv("GIT_DEFAULT_HASH", "sha256")
    one, other = remote(), remote()
    lease = new_lease()
    for each in (one, other):
        each.read({})
    assert one.claim("1", lease, "").ours and other.claim("1", new_lease(), "") == Claim(False, lease)


def test_a_repository_of_another_kind_is_refused_before_anything_is_done(remote, origin):
    other = origin.with_name("other.git")
    git("init", "--bare", "--quiet", "--object-format=sha256", str(other), cwd=origin)
    one = remote(url=other)
    one.read({})
    with pytest.raises(StoreError, match=r"push to .* failed .*hash algorithm"):
        one.claim("1", new_lease(), "")


def test_a_lease_that_was_removed_is_ours_again(remote, origin):
    one = remote()
    one.read({})
    assert one.claim("1", new_lease(), "").ours
    git("update-ref", "-d", LOCK, cwd=origin)
    assert one.write({ADA: Change(b"A", NEW)}, ()).holder is None
    assert git("rev-parse", LOCK, cwd=origin) and one.refresh() is None


def test_an_empty_repository_gets_the_branch_that_it_is_for(remote, origin, tmp_path):
    git("symbolic-ref", "HEAD", "refs/heads/trunk", cwd=origin)
    one = remote()
    one.read({})
    put(one, ada="A")
    assert git("for-each-ref", "--format=%(refname)", cwd=origin).split() == ["refs/heads/trunk"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("fatal: https://ada:pa@ss@git.example/x.git/ not found", "fatal: https://git.example/x.git/ not found"),
        ("ssh://git@git.example:22/x", "ssh://git.example:22/x"),
        ("git@git.example:x.git a@b.example", "git@git.example:x.git a@b.example"),
        ("https://git.example/a@b", "https://git.example/a@b"),
    ],
)
def test_no_url_says_who_logs_in(text, left):
    assert without_userinfo(text) == left


@pytest.mark.parametrize(
    ("url", "left", "answer"),
    [
        ("https://ada:s3cret@git.example/x.git", "https://git.example/x.git", b"username=ada\npassword=s3cret\n"),
        ("HTTPS://ada%40x:a%2Fb%25+c@[::1]:8443/x", "https://[::1]:8443/x", b"username=ada@x\npassword=a/b%+c\n"),
        ("http://ada:pa@ss:w#o?rd@git.example", "http://git.example", b"username=ada\npassword=pa@ss:w#o?rd\n"),
        ("https://ada:=@git.example/a=b", "https://git.example/a%3Db", b"username=ada\npassword==\n"),
        ("https://token:@git.example/x", "https://git.example/x", b"username=token\npassword=\n"),
    ],
)
def test_user_name_and_password_are_taken_out_of_a_url(url, left, answer):
    found, login = without_password(url)
    assert found == left and login.answer == answer


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example/a:b@c",
        "https://ada@git.example/x",
        "ssh://git@git.example:22/x",
        "git@git.example:a:b@c",
        "/srv/x",
    ],
)
def test_a_url_without_a_password_stays_as_it_is(url):
    assert without_password(url) == (url, None)


@pytest.mark.parametrize(
    "url",
    [
        "https://ada:s3/cret@git.example/x",
        "https://ada:s3cret%0Apassword=x@git.example/x",
        "https://ada:s3cret%00@git.example/x",
        "https://ada:s3cret%0D@git.example/x",
        f"https://ada:s3cret{'x' * 5000}@git.example/x",
        "https://ada:s3cret@git.example=x/y",
        "https://ada:s3cret@git$(id)/y",
        "ssh://ada:s3cret@git.example/x",
        "http::https://ada:s3cret@git.example/x",
    ],
)
def test_a_password_that_git_cannot_be_given_is_refused_and_not_shown(remote, url):
    with pytest.raises(OptionError, match=r"^vault_git_repo ") as refused:
        remote(url=url)
    assert "s3" not in refused.value.explain()


def filled(repository, **wanted):
    """Return what git learns where it wants to log in, by the means of the repository and of the user."""
    text = "".join(f"{name}={value}\n" for name, value in wanted.items())
    return repository.ask("credential", "fill", given=text.encode()).output.decode()


def test_a_password_is_for_its_server_alone_and_no_other_helper_is_told(tmp_path, monkeypatch):
    told = tmp_path / "told"
    config = tmp_path / "config"
    config.write_text(
        f'[credential]\n\thelper = "!f() {{ cat >> {told}; echo username=bob; echo password=bobs; }}; f"\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_ASKPASS", "true")
    repository = Git(str(tmp_path), "https://ada:s3cret@git.example:8443/x.git")
    assert "password=s3cret" in filled(repository, protocol="https", host="git.example:8443")
    assert not told.exists()
    for remote_copy in ({"protocol": "http", "host": "git.example:8443"}, {"protocol": "https", "host": "git.example"}):
        found = filled(repository, **remote_copy)
        assert "password=bobs" in found and "s3cret" not in found
    for operation in ("approve", "reject"):
        repository(
            "credential", operation, given=b"protocol=https\nhost=git.example:8443\nusername=ada\npassword=s3cret\n"
        )
    assert "s3cret" not in told.read_text()
    # Without a password it is as it ever was.
    assert "password=bobs" in filled(
        Git(str(tmp_path), "https://git.example:8443/x.git"), protocol="https", host="git.example:8443"
    )


def test_a_url_with_a_password_is_not_rewritten(tmp_path, monkeypatch):
    """What a user has git do with the same URL without a password was never for this one."""
    config = tmp_path / "config"
    config.write_text(
        '[url "ssh://git.example/"]\n\tinsteadOf = https://git.example/\n\tpushInsteadOf = https://git.example/\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    repository = Git(str(tmp_path / "repository"), "https://ada:s3cret@git.example/x=y.git")
    (tmp_path / "repository").mkdir()
    repository.create()
    for get in (("ls-remote", "--get-url", "origin"), ("remote", "get-url", "--push", "origin")):
        assert repository(*get) == b"https://git.example/x%3Dy.git\n"


def test_hooks_do_not_see_what_the_run_was_given(remote, origin, tmp_path, monkeypatch):
    """The repository is a path, so its hook is a child process of the git of this test."""
    hook = origin / "hooks" / "pre-receive"
    hook.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment\n")
    hook.chmod(0o755)
    hidden = [name for names in ENVIRONMENT.values() for name in names] + ["ANSIBLE_VAULT_PASSWORD_FILE"]
    for name in (*hidden, "B2_SOMETHING_ELSE"):
        monkeypatch.setenv(name, "x")
    one = remote()
    one.read({})
    assert not put(one, ada="A")
    seen = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert "B2_SOMETHING_ELSE" in seen and not seen & {*hidden}, seen & {*hidden}


def test_what_hangs_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(git_command, "PATIENCE", 0.5)
    monkeypatch.setenv("GIT_SSH_COMMAND", "sleep 60; true")
    repository = Git(str(tmp_path / "repository"), "ssh://127.0.0.1/x")
    (tmp_path / "repository").mkdir()
    repository.create()
    with pytest.raises(StoreError, match="did not end within"):
        repository("ls-remote", "origin")


def test_a_command_may_take_longer_than_one_look_to_read_its_input(tmp_path, monkeypatch):
    (tmp_path / "git").write_text("#!/bin/sh\nsleep 1\nexec cat\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    given = b"x" * 300_000  # more than a pipe holds
    assert Git(str(tmp_path / "repository"), "x")("hash-object", given=given) == given


def test_hooks_and_variables_of_the_user_do_not_reach_it(remote, origin, tmp_path, monkeypatch):
    hook = tmp_path / "templates" / "hooks" / "pre-push"
    hook.parent.mkdir(parents=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    for name, value in (
        ("GIT_TEMPLATE_DIR", str(tmp_path / "templates")),
        ("GIT_DIR", "/nonexistent"),
        ("GIT_INDEX_FILE", "/nonexistent"),
    ):
        monkeypatch.setenv(name, value)
    one = remote()
    one.read({})
    assert not put(one, ada="A") and shown(origin, f"keys/{ADA}") == "A"


def test_without_git_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreError, match="git cannot be run on the controller"):
        Git(str(tmp_path), "x").create()
