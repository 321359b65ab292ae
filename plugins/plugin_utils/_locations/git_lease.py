# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hold the lease of a Group in a Git repository: a branch without files, whose commit message names the run."""

from __future__ import annotations

import dataclasses
import re
import time
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.module_utils._lease import Claim, Lease, is_stale, read_lease
from ansible_collections.community.backblaze.plugins.plugin_utils._locations.git_command import Git

#: The branches of leases are below this name by default.
LOCK_BRANCH = "b2-members-lock"
_SUBJECT = "A run is at this Backblaze Group [skip ci]"
# The name of the branch in the repository of this run.
_REF = "refs/b2/lock"
_TRIES = 3
# Why a push is refused if another run was faster: as git says it, on either side, or a server with JGit.
_FASTER = re.compile(
    r"stale info|cannot lock ref|failed to update ref|incorrect old value|already exists|does not exist|failed to lock"
)


class GitLease:
    """The lease that one run holds in a repository. One thread at a time uses it; every method raises StoreError.

    name: of the vault directory. branches: the ref below which the branches of leases are, with a slash at the end.
    subject: of commits, empty for the usual one.
    """

    def __init__(self, git: Git, name: str, branches: str, subject: str) -> None:
        self._git = git
        self._name = name
        self._branches = branches
        self._subject = subject or _SUBJECT
        self._lease = Lease()
        #: The branch of the lease, and the commit of this run on it, empty if the run does not hold the lease.
        self.branch = ""
        self.commit = ""

    def claim(self, group: str, lease: Lease, instead_of: str) -> Claim:
        """Claim the lease of a Group; see Remote."""
        self.branch, self.commit, self._lease = f"{self._branches}{group}", "", lease
        other, current, age = self._record(self.branch)
        if other and not is_stale(age) and not (instead_of and other.id == instead_of):
            return Claim(False, other)
        for _try in range(_TRIES):
            problem = self._push(current)
            # Without a branch there is no other run: the one that was faster has released the lease just now.
            if not problem or current or self._git.fetch(self.branch, _REF):
                return Claim(not problem, other)
        raise StoreError(
            f"A push of branch {self.branch.removeprefix('refs/heads/')} to {self._name} failed ({problem}).",
            remedy="If another branch is in its way, name another vault_git_lock_branch.",
        )

    def refresh(self) -> t.Optional[Lease]:
        """Refresh the lease; see Remote."""
        return self.holder() if self._push(self.commit) else None

    def release(self) -> None:
        """Give the lease up: delete its branch, or push that the lease is released."""
        commit, self.commit = self.commit, ""
        if not commit:
            return
        pushed = self._git.push(f":{self.branch}", conditions=[f"--force-with-lease={self.branch}:{commit}"])
        refused = pushed.refs.get(self.branch)
        if refused and not _FASTER.search(refused):
            # Many servers do not allow to delete a branch.
            self._lease = dataclasses.replace(self._lease, released=True)
            self._push(commit)
            self.commit = ""
        elif refused != "":
            raise StoreError(f"A push to {self._name} failed ({pushed.said}).", remedy="Run again.")

    def peek(self, group: str) -> t.Optional[Lease]:
        """Return the fresh lease of a Group; see Remote."""
        other, _commit, age = self._record(f"{self._branches}{group}")
        return None if is_stale(age) else other

    def holder(self) -> t.Optional[Lease]:
        """Return the run that has taken the lease over; None if no run has, and this run holds the lease again."""
        other, commit, _age = self._record(self.branch)
        if not other:
            return Lease() if self._push(commit) else None
        if other.id != self._lease.id:
            return other
        # An earlier push of this run was accepted without an answer.
        self.commit = commit
        return None

    def _push(self, current: str) -> str:
        """Push the lease if its branch is still at this commit, empty for no branch; return why it was not, if so."""
        record = f"{self._subject}\n\n{self._lease.as_text()}"
        tree = self._git("mktree").decode().strip()
        # On top of the current commit: a server that does not allow to delete a branch may not allow to rewrite it.
        parent = ["-p", current] if current else []
        commit = self._git("commit-tree", tree, *parent, "-m", record).decode().strip()
        condition = f"--force-with-lease={self.branch}:{current}"
        pushed = self._git.push(f"{commit}:{self.branch}", conditions=[condition])
        refused = pushed.refs.get(self.branch)
        if refused is None or (refused and not _FASTER.search(refused)):
            raise StoreError(f"A push to {self._name} failed ({pushed.said}).", remedy="Fix that, then run again.")
        if not refused:
            self.commit = commit
        return refused

    def _record(self, branch: str) -> tuple[t.Optional[Lease], str, float]:
        """Return a lease, None if it was released; the commit of its branch, empty if there is none; and its age."""
        commit = self._git.fetch(branch, _REF)
        if not commit:
            return None, "", 0.0
        record = self._git("log", "-1", "--format=%ct%n%B", commit).decode("utf-8", "replace")
        seconds, *lines = record.strip().splitlines()
        lease = read_lease(lines[-1] if lines else "")
        if not lease.id and self._git("ls-tree", _REF):
            raise StoreError(
                f"The branch {branch.removeprefix('refs/heads/')} of {self._name} has files, so it is not a lease.",
                remedy="Name another vault_git_lock_branch, or rename the branch.",
            )
        return None if lease.released else lease, commit, time.time() - int(seconds)
