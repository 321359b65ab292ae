# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The depot in a Git repository: what arrives together is one commit, and it is in its place when the push of that was accepted.

Each commit is made on what the branch is at that moment. If the push is refused since somebody else was faster, it is made anew on that. There
is no merge: of our files only we are to change any, and one that somebody else has changed is not replaced.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import re
import time
import typing as t

from ansible import constants as C

from ansible_collections.community.backblaze.plugins.module_utils._errors import OptionError, StoreError
from ansible_collections.community.backblaze.plugins.module_utils._files import digest
from ansible_collections.community.backblaze.plugins.module_utils._lease import Claim, Lease, is_stale, read_lease
from ansible_collections.community.backblaze.plugins.module_utils._vault_paths import (
    FILE_NAME,
    STATE_NAME,
    is_synced_path,
)
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.git_command import Git, without_userinfo
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.remote import Change, Contents, Written

#: The branches of leases are under this name, if nobody has named another one.
LOCK_BRANCH = "b2-members-lock"
_LOCK_SUBJECT = "A run is at this Backblaze Group [skip ci]"
# What they are called in our own repository.
_TIP, _LOCK, _NEW = "refs/b2/tip", "refs/b2/lock", "refs/b2/new"
_FILE, _SYMLINK, _DIRECTORY = ("100644", "100755"), "120000", "040000"
# How often a commit is made anew, and how often where nobody else has pushed: then it is not for the hurry of others that it is refused.
_TRIES = 25
_TRIES_ALONE = 3
_LONGEST_PAUSE = 2.0
# How a push of a lease is refused because somebody else was faster: by git here, by git on the server, or by a server with JGit.
_FASTER = re.compile(
    r"stale info|cannot lock ref|failed to update ref|incorrect old value|already exists|does not exist|failed to lock"
)


class Repository:
    """A vault directory on a branch of a repository.

    branch: empty for the repository's own default. folder: empty for its root.
    message: subject of every commit, with ``{keys}`` for a number; empty for subjects that say what the commit is for.
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
        self._clone = os.path.join(directory, "clone")
        self._asked = branch
        self._folder = folder
        self._message = message
        self._locks = f"refs/heads/{lock_branch}/"
        self._branch = ""
        # The commit that the branch is at as far as we know, empty for none; and what git calls a content, by its digest.
        self._tip = ""
        self._blobs = {"": ""}
        # What was seen at each path, or put there: if the branch is set back, these are there again, and nobody else's.
        self._past: dict[str, set[str]] = {}
        # The branch that a lease is, the commit of it that is ours, and what it says.
        self._lock = ""
        self._held = ""
        self._lease: t.Optional[Lease] = None
        # Whether a push can be all or nothing.
        self._atomic = True

    # Reading

    def read(self, known: t.Mapping[str, str]) -> Contents:
        """Return what the branch holds now; see Depot."""
        first = not self._branch
        if first:
            self._git.create()
            self._branch = f"refs/heads/{self._asked or self._default_branch()}"
            self._refuse_clash()
        self._look()
        # Later on it was there, and somebody has deleted it.
        if first and self._asked and not self._tip and self._heads():
            raise StoreError(
                f"{self._url} has no branch {self._asked}.", remedy="Make it, or name another vault_git_branch."
            )
        if not self._folder_is_there():
            return Contents({}, frozenset(), exists=False)
        found, obstacles = self._listed()
        news = {path: blob for path, blob in found.items() if path not in known or self._blobs.get(known[path]) != blob}
        contents = dict(zip(news, self._contents(list(news.values())), strict=True))
        digests = {path: digest(data) for path, data in contents.items()}
        self._blobs.update((digests[path], blob) for path, blob in news.items())
        for path, blob in news.items():
            self._past.setdefault(path, {""}).add(blob)
        # No file is newer than the last commit.
        written = float(self._git("log", "-1", "--format=%ct", self._tip).decode())
        files = {path: data for path, data in contents.items() if digests[path] != known.get(path)}
        return Contents(files, frozenset(found), obstacles, times=dict.fromkeys(files, written))

    def _refuse_clash(self) -> None:
        """Show that the branch of the keys and those of leases can be in one repository: their names are paths."""
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
        if self._heads():
            raise StoreError(f"{self._url} has no default branch.", remedy="Name a vault_git_branch.")
        # Without any commit only a clone is told.
        self._git("clone", "--quiet", "--bare", "--", self._git.url, self._clone, environment={"GIT_DIR": self._clone})
        return self._git("symbolic-ref", "--short", "HEAD", environment={"GIT_DIR": self._clone}).decode().strip()

    def _heads(self) -> bool:
        """Tell whether the repository has any branch but those of leases."""
        names = (line.partition("\t")[2] for line in self._git("ls-remote", "--heads", "origin").decode().splitlines())
        return any(not name.startswith(self._locks) for name in names)

    def _look(self) -> str:
        """Learn which commit the branch is at, and return which one the lease is at, empty for none."""
        wanted = [name for name in (self._branch, self._lock) if name]
        lines = self._git("ls-remote", "origin", *wanted).decode().splitlines()
        refs = {name: commit for commit, _tab, name in (line.partition("\t") for line in lines)}
        if refs.get(self._branch, "") not in ("", self._tip):
            self._git("fetch", "--quiet", "--no-tags", "--depth=1", "origin", f"+{self._branch}:{_TIP}")
            self._tip = self._git("rev-parse", _TIP).decode().strip()
        elif self._branch not in refs:
            self._tip = ""
        return refs.get(self._lock, "")

    def _folder_is_there(self) -> bool:
        parts = self._folder.split("/") if self._folder else []
        for number in range(1, len(parts) + 1):
            path = "/".join(parts[:number])
            mode = self._modes(path).get(path, "") if self._tip else ""
            if not mode:
                return False
            if mode != _DIRECTORY:
                what = "a symlink, which is not followed" if mode == _SYMLINK else "not a directory"
                raise StoreError(f"{self._url}:{path} is {what}.", remedy="Choose another vault_dir.")
        return bool(self._tip)

    def _modes(self, *paths: str) -> dict[str, str]:
        return {path: mode for mode, _blob, path in self._tree(self._tip, *paths)}

    def _tree(self, *what: str) -> t.Iterator[tuple[str, str, str]]:
        """Yield (mode, object, path) of what ls-tree lists."""
        for entry in self._git("ls-tree", "-z", "--full-tree", *what, environment={"GIT_LITERAL_PATHSPECS": "1"}).split(
            b"\0"
        )[:-1]:
            about, _tab, path = entry.partition(b"\t")
            mode, _kind, blob = about.decode().split(" ")
            yield mode, blob, os.fsdecode(path)

    def _listed(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the blob of each file of ours, and what is odd; see Contents."""
        found: dict[str, str] = {}
        obstacles: dict[str, str] = {}
        entries = list(self._tree("-r", f"{self._tip}:{self._folder}"))
        folders = {path.partition("/")[0] for _mode, _blob, path in entries if "/" in path}
        for mode, blob, path in entries:
            parts = path.split("/")
            if len(parts) > 1 and is_synced_path("/".join(parts[:2])) and len(parts) > 2:
                obstacles["/".join(parts[:2])] = "directory"
            elif (len(parts) == 1 and not _is_beside(path, folders)) or (is_synced_path(path) and mode not in _FILE):
                obstacles[path] = "symlink" if mode == _SYMLINK else "file"
            elif is_synced_path(path):
                found[path] = blob
        return found, obstacles

    def _contents(self, blobs: t.Sequence[str]) -> t.Iterator[bytes]:
        rest = self._git("cat-file", "--batch", given="".join(f"{blob}\n" for blob in blobs).encode())
        position = 0
        for _blob in blobs:
            end = rest.index(b"\n", position)
            size = int(rest[position:end].split(b" ")[2])
            yield rest[end + 1 : end + 1 + size]
            position = end + size + 2

    # Writing

    def prove_writing(self) -> None:
        """Do nothing: the lease was pushed, and the first create has to wait until the branch has taken a note of it."""

    def write(self, changes: t.Mapping[str, Change], gone: t.Collection[str]) -> Written:
        """Commit files and push them; see Depot."""
        blobs = {path: _blob(change.data) for path, change in changes.items()}
        self._blobs.update((digest(change.data), blobs[path]) for path, change in changes.items())
        holder: t.Optional[Lease] = None
        alone = 0
        for attempt in range(_TRIES):
            there = self._there([*blobs, *gone])
            refused = {
                path: "somebody else has changed it"
                for path, blob in blobs.items()
                if there.get(path, "")
                not in {blob, *map(self._blobs.get, changes[path].replaces), *self._past.get(path, ())}
            }
            if refused and not attempt:
                # What we know of the branch may be old.
                self._catch_up()
                continue
            if holder:
                refused.update(
                    (path, "another run has taken over") for path in changes if path.startswith(f"{STATE_NAME}/")
                )
            news = {
                path: changes[path].data
                for path, blob in blobs.items()
                if path not in refused and there.get(path) != blob
            }
            if not news and not there.keys() & set(gone):
                return Written(refused, holder)
            commit = self._commit(news, there.keys() & set(gone))
            problem, lost = self._push(commit, guarded=not holder)
            if not problem:
                self._tip = commit
                for path in news:
                    self._past.setdefault(path, {""}).add(blobs[path])
                # With a server that takes nothing or all this was found out before.
                return Written(refused, self._holder() if lost else holder)
            if lost:
                holder = self._holder()
                continue
            if "hook declined" in problem or alone == _TRIES_ALONE:
                break
            time.sleep(random.uniform(0, min(0.1 * attempt, _LONGEST_PAUSE)))  # noqa: S311 - who goes first is no secret
            before = self._tip
            self._catch_up()
            alone = alone + 1 if self._tip == before else 0
        raise StoreError(f"{self.name} did not take a push ({problem}).", remedy="Mend that, then run again.")

    def _catch_up(self) -> None:
        """Learn which commit the branch is at with as few commands as can be: whoever pushes while they run is ahead of us again."""
        if (
            self._tip
            and not self._git.ask(
                "fetch", "--quiet", "--no-tags", "--depth=1", "origin", f"+{self._branch}:{_TIP}"
            ).code
        ):
            self._tip = self._git("rev-parse", _TIP).decode().strip()
        else:
            # There is no branch, or somebody has deleted it.
            self._look()

    def _there(self, paths: t.Collection[str]) -> dict[str, str]:
        """Return the blobs that the branch has at some paths now."""
        if not self._tip:
            return {}
        by_path = {self._whole(path): path for path in paths}
        return {by_path[path]: blob for _mode, blob, path in self._tree(self._tip, *by_path)}

    def _whole(self, path: str) -> str:
        return f"{self._folder}/{path}" if self._folder else path

    def _commit(self, files: t.Mapping[str, bytes], gone: t.Collection[str]) -> str:
        """Make a commit of these files on what the branch is at; return it."""
        keys = sum(path.endswith(f"/{FILE_NAME}") for path in files)
        sealed = f"Seal keys of Backblaze members ({keys} files)"
        subject = self._subject(sealed if keys else "Note which Backblaze members are under way", keys)
        parts = [f"commit {_NEW}\nmark :1\ncommitter {self._git.identity()} now\n".encode(), _data(subject.encode())]
        parts += [f"from {self._tip}\n".encode()] if self._tip else []
        for path, data in files.items():
            parts += [b"M 100644 inline " + _quoted(self._whole(path)), _data(data)]
        parts += [b"D " + _quoted(self._whole(path)) for path in gone]
        parts.append(b"get-mark :1\ndone\n")
        return (
            self._git("fast-import", "--quiet", "--force", "--done", "--date-format=now", given=b"".join(parts))
            .decode()
            .strip()
        )

    def _subject(self, usual: str, keys: int = 0) -> str:
        """Return the subject of a commit with so many files of keys."""
        return self._message.replace("{keys}", str(keys)) if self._message else usual

    def _push(self, commit: str, *, guarded: bool) -> tuple[str, bool]:
        """Push a commit; return why it was refused, if so, and whether the lease is not ours. guarded: only if it still is, where we have one."""
        guarded = guarded and bool(self._held)
        conditions, refs = [], [f"{commit}:{self._branch}"]
        if guarded:
            # All or nothing: what is kept about a Group is for the holder of its lease to write.
            conditions = [f"--force-with-lease={self._lock}:{self._held}", *(["--atomic"] if self._atomic else [])]
            refs.append(f"{self._held}:{self._lock}")
        answer = self._git.ask("push", "--porcelain", "--no-verify", *conditions, "origin", *refs)
        told = _told(answer.output)
        if self._branch not in told:
            # Not every server can; without it the keys are as safe, and two runs at once are told a moment later.
            self._atomic = self._atomic and "--atomic" not in answer.said
            return answer.said or f"exit code {answer.code}", False
        flag, summary = told[self._branch]
        lock_flag, lock_summary = told.get(self._lock, ("=", ""))
        lost = guarded and lock_flag == "!" and "atomic" not in lock_summary
        return (f"{summary}: {answer.said}" if flag == "!" else ""), lost

    # Leases: a branch with one commit of nothing, whose message is the record

    def claim(self, group: str, lease: Lease, instead_of: str) -> Claim:
        """Ask for the lease of a Group; see Depot."""
        self._lock, self._held, self._lease = f"{self._locks}{group}", "", lease
        there, other = self._look(), None
        if there:
            other, there, age = self._record(self._lock)
            if other and other.released:
                other = None
            elif other and not is_stale(age) and not (instead_of and other.id == instead_of):
                return Claim(False, other)
        for _try in range(_TRIES_ALONE):
            problem = self._put(there)
            # Else the run that was faster may have released the lease just now.
            if not problem or there or self._look():
                return Claim(not problem, other)
        raise StoreError(
            f"{self.name} did not take a push of branch {self._lock.removeprefix('refs/heads/')} ({problem}).",
            remedy="If a branch is in its way, name another vault_git_lock_branch.",
        )

    def refresh(self) -> t.Optional[Lease]:
        """Say that the holder is still there; see Depot."""
        return self._holder() if self._put(self._held) else None

    def release(self) -> None:
        """Give the lease up: remove its branch, or note there that the lease is released."""
        held, self._held = self._held, ""
        if not held or not self._lease:
            return
        condition = f"--force-with-lease={self._lock}:{held}"
        answer = self._git.ask("push", "--porcelain", "--no-verify", condition, "origin", f":{self._lock}")
        flag, summary = _told(answer.output).get(self._lock, ("", ""))
        if flag == "!" and not _FASTER.search(summary):
            # Many a server deletes no branch.
            self._lease = dataclasses.replace(self._lease, released=True)
            self._put(held)
            self._held = ""
        elif answer.code:
            raise StoreError(f"{self.name} did not take a push ({answer.said or summary}).", remedy="Run again.")

    def peek(self, group: str) -> t.Optional[Lease]:
        """Return which run is at a Group; see Depot."""
        other, _commit, age = self._record(f"{self._locks}{group}")
        return None if is_stale(age) else other

    def _put(self, there: str) -> str:
        """Write the lease anew, if it is at this commit still, empty for none; else return what the server said."""
        record = f"{self._subject(_LOCK_SUBJECT)}\n\n{self._lease.as_text() if self._lease else ''}"
        tree = self._git("mktree").decode().strip()
        # On what is there: a server that deletes no branch may refuse as well to rewrite one.
        commit = self._git("commit-tree", tree, *(["-p", there] if there else []), "-m", record).decode().strip()
        answer = self._git.ask(
            "push",
            "--porcelain",
            "--no-verify",
            f"--force-with-lease={self._lock}:{there}",
            "origin",
            f"{commit}:{self._lock}",
        )
        flag, summary = _told(answer.output).get(self._lock, ("", ""))
        if not flag or (flag == "!" and not _FASTER.search(summary)):
            raise StoreError(
                f"{self.name} did not take a push ({answer.said or summary}).", remedy="Mend that, then run again."
            )
        if flag == "!":
            return summary
        self._held = commit
        return ""

    def _holder(self) -> t.Optional[Lease]:
        """Return whose the lease is; None where it is nobody's, and ours again from now on."""
        there = self._look()
        if there:
            other, there, _age = self._record(self._lock)
            if other and self._lease and other.id == self._lease.id:
                # Ours: a push of it was taken without our being told.
                self._held = there
                return None
            if other and not other.released:
                return other
        return Lease() if self._put(there) else None

    def _record(self, lock: str) -> tuple[t.Optional[Lease], str, float]:
        """Return whose a lease is, its commit and its age in seconds; None and no commit if its branch is gone."""
        answer = self._git.ask("fetch", "--quiet", "--no-tags", "--depth=1", "origin", f"+{lock}:{_LOCK}")
        if answer.code:
            if "couldn't find remote ref" in answer.said:
                return None, "", 0.0
            said = answer.said or f"exit code {answer.code}"
            raise StoreError(f"git fetch failed ({said}).", remedy="Fix that, then run again.")
        record = self._git("log", "-1", "--format=%H%n%ct%n%B", _LOCK).decode("utf-8", "replace")
        commit, said, *lines = record.strip().splitlines()
        lease = read_lease(lines[-1] if lines else "")
        if not lease.id and self._git("ls-tree", _LOCK):
            raise StoreError(
                f"{self.name}: the branch {lock.removeprefix('refs/heads/')} is no lease.",
                remedy="Name another vault_git_lock_branch, or rename it.",
            )
        return lease, commit, time.time() - int(said)


def _is_beside(path: str, folders: t.Collection[str]) -> bool:
    """Tell whether a file of variables is beside a directory of its name: then Ansible loads the directory only."""
    name, extension = os.path.splitext(path)
    return extension in C.YAML_FILENAME_EXTENSIONS and name in folders


def _told(output: bytes) -> dict[str, tuple[str, str]]:
    """Return what a push says of each ref on the other side: its flag, ``!`` where it was refused, and a summary."""
    told = {}
    for line in output.decode("utf-8", "replace").splitlines():
        flag, *fields = line.split("\t")
        if len(fields) == 2 and len(flag) == 1:
            told[fields[0].rpartition(":")[2]] = flag, without_userinfo(fields[1])
    return told


def _blob(data: bytes) -> str:
    """Return what git calls a file with this in it."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _data(content: bytes) -> bytes:
    """Return something as fast-import takes it."""
    return b"data %d\n" % len(content) + content + b"\n"


def _quoted(path: str) -> bytes:
    """Return a path as fast-import takes it, with the end of its line."""
    return b'"' + os.fsencode(path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) + b'"\n'
