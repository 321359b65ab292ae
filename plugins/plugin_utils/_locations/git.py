# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read and write a vault directory on a branch of a Git repository.

Files that are written together are one commit, and they count as written when its push was accepted. If a push is
refused because somebody else was faster, the commit is recreated on top of the new branch. There is no merge: this run
changes key files and journals only, and does not replace one that somebody else has changed.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._lease import Lease
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import (
    FILE_NAME,
    STATE_NAME,
    is_obstacle,
    is_synced_path,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.git_command import Git, without_userinfo
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.git_lease import LOCK_BRANCH, GitLease
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.remote import Change, Contents, Written

# Names of commits in the repository of this run.
_TIP, _NEW = "refs/b2/tip", "refs/b2/new"
_KINDS = {"100644": "file", "100755": "file", "120000": "symlink", "040000": "directory"}
# How often a push is tried, and how often while nobody else pushes: then something else refuses it.
_TRIES = 25
_TRIES_ALONE = 3
_LONGEST_PAUSE = 2.0


class Repository:
    """A vault directory on a branch of a repository; see Remote.

    directory: private, for the repository of this run. branch: empty for the default branch.
    folder: of the vault directory, empty for the root.
    message: subject of every commit, with ``{keys}`` for a number; empty for the usual subjects.
    lock_branch: first part of the names of branches for leases.
    """

    takes_index = False

    def __init__(
        self,
        directory: str,
        url: str,
        branch: str,
        folder: str,
        message: str = "",
        lock_branch: str = LOCK_BRANCH,
    ) -> None:
        self._git = Git(os.path.join(directory, "repository"), url)
        self._url = without_userinfo(url)
        self.name = f"{self._url}:{folder or '.'}"
        self._clone = Git(os.path.join(directory, "clone"), url)
        self._asked = branch
        self._folder = folder
        self._message = message
        self._locks = f"refs/heads/{lock_branch}/"
        self._lease = GitLease(self._git, self.name, self._locks, self._subject("", 0))
        self._branch = ""
        # The last commit of the branch as far as this run knows, empty for none.
        self._tip = ""
        # All blobs that were at a path during this run: after a reset of the branch they are no changes of others.
        self._past: dict[str, set[str]] = {}
        # Whether the server takes a push of several branches all or nothing.
        self._atomic = True
        # The rest of Remote. The digest of a file is the name of its blob.
        self.digest = _blob
        self.claim, self.refresh = self._lease.claim, self._lease.refresh
        self.release, self.peek = self._lease.release, self._lease.peek

    # Reading

    def read(self, known: t.Mapping[str, str]) -> Contents:
        """Return the files on the branch; see Remote."""
        first = not self._branch
        if first:
            self._git.create()
            self._branch = f"refs/heads/{self._asked or self._default_branch()}"
            self._prove_no_clash()
        self._fetch()
        # A branch that is missing later was deleted by somebody else.
        if first and self._asked and not self._tip and self._has_branches():
            raise StoreError(
                f"{self._url} has no branch {self._asked}.", remedy="Create it, or name another vault_git_branch."
            )
        if not self._folder_exists():
            return Contents({}, frozenset(), exists=False)
        found, obstacles = self._listed()
        news = {path: blob for path, blob in found.items() if known.get(path) != blob}
        files = dict(zip(news, self._contents(list(news.values())), strict=True))
        for path, blob in news.items():
            self._past.setdefault(path, {""}).add(blob)
        # No file is newer than the last commit.
        written = float(self._git("log", "-1", "--format=%ct", self._tip).decode())
        return Contents(files, frozenset(found), obstacles, times=dict.fromkeys(files, written))

    def _prove_no_clash(self) -> None:
        """Prove that the branch of the keys and those of leases can be in one repository: their names are paths."""
        branch = f"{self._branch}/"
        if branch.startswith(self._locks) or self._locks.startswith(branch):
            names = [name.removeprefix("refs/heads/") for name in (self._locks[:-1], self._branch)]
            raise OptionError(
                f"vault_git_lock_branch {names[0]} is in the way of branch {names[1]}, which is for the keys.",
                remedy="Name another vault_git_lock_branch.",
            )

    def _default_branch(self) -> str:
        for line in self._git("ls-remote", "--symref", "origin", "HEAD").decode().splitlines():
            target, _tab, name = line.partition("\t")
            if name == "HEAD" and target.startswith("ref: refs/heads/"):
                return target[len("ref: refs/heads/") :]
        if self._has_branches():
            raise StoreError(f"{self._url} has no default branch.", remedy="Name a vault_git_branch.")
        # A repository without a commit names its default branch only to a clone.
        self._clone("clone", "--quiet", "--bare", "--", self._clone.url, self._clone.directory)
        return self._clone("symbolic-ref", "--short", "HEAD").decode().strip()

    def _has_branches(self) -> bool:
        """Tell whether the repository has any branch but those of leases."""
        listed = self._git("ls-remote", "--heads", "origin").decode().splitlines()
        return any(not line.partition("\t")[2].startswith(self._locks) for line in listed)

    def _fetch(self) -> None:
        """Fetch the last commit of the branch with one command: whoever pushes meanwhile is faster again."""
        self._tip = self._git.fetch(self._branch, _TIP)

    def _folder_exists(self) -> bool:
        """Tell whether the vault directory is on the branch; StoreError if it is a file or below a symlink."""
        if not self._tip:
            return False
        paths = list(itertools.accumulate(self._folder.split("/"), os.path.join)) if self._folder else []
        kinds = {path: kind for kind, _blob, path in self._tree("-t", self._tip, *paths)}
        for path in paths:
            if path not in kinds:
                return False
            if kinds[path] != "directory":
                what = "a symlink, which is not followed" if kinds[path] == "symlink" else "not a directory"
                raise StoreError(f"{self._url}:{path} is {what}.", remedy="Choose another vault_dir.")
        return True

    def _tree(self, *what: str) -> t.Iterator[tuple[str, str, str]]:
        """Yield (kind, blob, path) of each entry that ls-tree lists."""
        for entry in self._git("ls-tree", "-z", "--full-tree", *what).split(b"\0")[:-1]:
            about, _tab, path = entry.partition(b"\t")
            mode, _kind, blob = about.decode().split(" ")
            yield _KINDS.get(mode, "submodule"), blob, os.fsdecode(path)

    def _listed(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the blob of each file that the remote copy holds, and the obstacles; see Contents."""
        found: dict[str, str] = {}
        obstacles: dict[str, str] = {}
        entries = list(self._tree("-r", "-t", f"{self._tip}:{self._folder}"))
        directories = {path for kind, _blob, path in entries if kind == "directory"}
        for kind, blob, path in entries:
            if is_obstacle(path, kind, directories):
                obstacles[path] = kind
            elif is_synced_path(path):
                found[path] = blob
        return found, obstacles

    def _contents(self, blobs: t.Sequence[str]) -> t.Iterator[bytes]:
        rest = self._git("cat-file", "--batch", given="".join(f"{blob}\n" for blob in blobs).encode())
        position = 0
        for _name in blobs:
            end = rest.index(b"\n", position)
            size = int(rest[position:end].split(b" ")[2])
            yield rest[end + 1 : end + 1 + size]
            position = end + size + 2

    # Writing

    def prove_writing(self) -> None:
        """Do nothing: the lease was pushed, and no member is created before its journal entry is pushed."""

    def write(self, changes: t.Mapping[str, Change], gone: t.Collection[str]) -> Written:
        """Commit files and push them; see Remote."""
        blobs = {path: _blob(change.data) for path, change in changes.items()}
        holder: t.Optional[Lease] = None
        alone = 0
        for attempt in range(_TRIES):
            current = self._current([*blobs, *gone])
            refused = self._refused(changes, blobs, current, lost=holder is not None)
            if refused and not attempt:
                # The branch may have changed since the last fetch.
                self._fetch()
                continue
            news = {path: changes[path].data for path in blobs.keys() - refused if current.get(path) != blobs[path]}
            removed = current.keys() & set(gone)
            if not news and not removed:
                return Written(refused, holder)
            commit = self._commit(news, removed)
            problem, lost = self._push(commit, guarded=not holder)
            if not problem:
                self._tip = commit
                for path in news:
                    self._past.setdefault(path, {""}).add(blobs[path])
                # Only a server without atomic pushes takes the commit although the lease is lost.
                return Written(refused, self._lease.holder() if lost else holder)
            if lost:
                holder = self._lease.holder()
                continue
            if "hook declined" in problem or alone == _TRIES_ALONE:
                break
            time.sleep(random.uniform(0, min(0.1 * attempt, _LONGEST_PAUSE)))  # noqa: S311 - this is no secret
            before = self._tip
            self._fetch()
            alone = alone + 1 if self._tip == before else 0
        raise StoreError(f"A push to {self.name} failed ({problem}).", remedy="Fix that, then run again.")

    def _refused(
        self, changes: t.Mapping[str, Change], blobs: t.Mapping[str, str], current: t.Mapping[str, str], *, lost: bool
    ) -> dict[str, str]:
        """Return why, for each file that must not be written.

        blobs, current: the blob of each change, and of each file on the branch. lost: whether the lease is lost.
        """
        refused = {}
        for path, change in changes.items():
            ours = {blobs[path], *change.replaces, *self._past.get(path, ())}
            if lost and path.startswith(f"{STATE_NAME}/"):
                refused[path] = "another run has taken over"
            elif current.get(path, "") not in ours:
                refused[path] = "somebody else has changed it"
        return refused

    def _current(self, paths: t.Collection[str]) -> dict[str, str]:
        """Return the blobs that the branch has at some paths."""
        if not self._tip:
            return {}
        by_path = {self._whole(path): path for path in paths}
        return {by_path[path]: blob for _kind, blob, path in self._tree(self._tip, *by_path)}

    def _whole(self, path: str) -> str:
        return f"{self._folder}/{path}" if self._folder else path

    def _commit(self, files: t.Mapping[str, bytes], gone: t.Collection[str]) -> str:
        """Create a commit of files on top of the branch, without removed ones; return it."""
        keys = sum(path.endswith(f"/{FILE_NAME}") for path in files)
        sealed = f"Seal keys of Backblaze members ({keys} files)"
        subject = self._subject(sealed if keys else "Note which Backblaze members are under way", keys)
        committer = self._git("var", "GIT_COMMITTER_IDENT")
        parts = [f"commit {_NEW}\nmark :1\n".encode(), b"committer " + committer, _data(subject.encode())]
        parts += [f"from {self._tip}\n".encode()] if self._tip else []
        for path, data in files.items():
            parts += [b"M 100644 inline " + _quoted(self._whole(path)), _data(data)]
        parts += [b"D " + _quoted(self._whole(path)) for path in gone]
        given = b"".join([*parts, b"get-mark :1\ndone\n"])
        return self._git("fast-import", "--quiet", "--force", "--done", given=given).decode().strip()

    def _subject(self, usual: str, keys: int) -> str:
        """Return the subject of a commit with so many key files."""
        return self._message.replace("{keys}", str(keys)) if self._message else usual

    def _push(self, commit: str, *, guarded: bool) -> tuple[str, bool]:
        """Push a commit; return why it was refused, if so, and whether this run has lost the lease.

        guarded: whether the push needs the lease, if this run has claimed one.
        """
        lock, held = self._lease.branch, self._lease.commit
        guarded = guarded and bool(held)
        conditions, refs = [], [f"{commit}:{self._branch}"]
        if guarded:
            # All or nothing: only the holder of the lease may write the journal of its Group.
            conditions = [f"--force-with-lease={lock}:{held}", *(["--atomic"] if self._atomic else [])]
            refs.append(f"{held}:{lock}")
        pushed = self._git.push(*refs, conditions=conditions)
        if self._branch not in pushed.refs:
            # Without atomic pushes keys are as safe, and a run learns a moment later that it has lost the lease.
            self._atomic = self._atomic and "--atomic" not in pushed.said
            return pushed.said, False
        refused, lock_refused = pushed.refs[self._branch], pushed.refs.get(lock, "")
        lost = guarded and bool(lock_refused) and "atomic" not in lock_refused
        return (f"{refused}: {pushed.said}" if refused else ""), lost


def _blob(data: bytes) -> str:
    """Return the blob of a content: the name that git gives it."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _data(content: bytes) -> bytes:
    """Return content as fast-import takes it."""
    return b"data %d\n" % len(content) + content + b"\n"


def _quoted(path: str) -> bytes:
    """Return a path as fast-import takes it, with a line end."""
    return b'"' + os.fsencode(path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) + b'"\n'
