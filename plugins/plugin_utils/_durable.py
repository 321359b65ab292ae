# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a directory outlives the job that runs here: in AWX, and wherever else ansible-runner starts Ansible, much does not.

Outside of a job nothing is judged. In one, what cannot be told counts as lost.

What the two lay out: ansible-runner names ``<private data directory>/artifacts/<ident>`` in the environment. With a container that directory
is mounted at /runner, in a Kubernetes pod /runner is a directory of the container itself. AWX makes a private data directory for each job, with
a copy of the project in it, and removes both when the job ends. So does a worker of ansible-runner that is not told where to work. A copy of
the project alone, in ``runner_di_*``, is what ansible-runner's directory isolation makes and removes.
"""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError

#: Says of the directory what runs elsewhere may say of it, and it may be reached by a symlink.
_DIRECTORIES = ("AWX_ISOLATED_DATA_DIR", "AWX_PRIVATE_DATA_DIR")
_IN_CONTAINER = "/runner"
_MARKS_OF_CONTAINERS = ("/.dockerenv", "/run/.containerenv")
# Eight characters are what tempfile appends.
_PROJECT_COPY = re.compile(r"runner_di_[a-z0-9_]{8}")
_THROWAWAY = re.compile(r"(?:awx_\d+_|tmp|\.ansible-runner-)[a-z0-9_]{8}")
#: What else there is, for options that it is there for.
_WAYS_OUT = {"vault_dir": "Or keep the keys on a host, with vault_location: target, or in a Git repository, with vault_location: git. "}
_LAYERS = frozenset({"overlay", "fuse.fuse-overlayfs"})
_MEMORY = frozenset({"tmpfs", "ramfs", "rootfs"})
# Of a pod (emptyDir), and those without a name that engines make for one container: podman's and docker's, then containerd's.
_VOLUME_OF_CONTAINER = re.compile(r"/kubernetes\.io~empty-dir/|/[0-9a-f]{64}/_data(?:/|$)|/[0-9a-f]{64}/volumes/")


class _Mount(t.NamedTuple):
    """A line of mountinfo. root: what of the file system is mounted there."""

    number: str
    parent: str
    root: str
    point: str
    kind: str


def prove_durable(option: str, path: str) -> None:
    """Show that the directory of an option outlives this job, if this is one, or raise StoreError."""
    reason = lost_with_job(path)
    if reason:
        raise StoreError(
            f"{option} {path} would be lost with this job: {reason}.",
            remedy=f"Mount a directory that stays into the execution environment, and name it as {option}. {_WAYS_OUT.get(option, '')}"
            "If this place is kept in another way, set vault_dir_is_durable: true.",
        )


def lost_with_job(path: str) -> str:
    """Say why a directory, which need not be there yet, does not outlive this job; empty where it does, and where this is no job."""
    if not is_job(os.environ):
        return ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mountinfo = file.read()
    except OSError:
        mountinfo = ""
    resolved = {name: os.path.realpath(os.environ[name]) for name in _DIRECTORIES if os.environ.get(name)}
    return judge(os.path.realpath(path), {**os.environ, **resolved}, mountinfo, any(map(os.path.exists, _MARKS_OF_CONTAINERS)))


def is_job(environment: t.Mapping[str, str]) -> bool:
    """Tell whether ansible-runner or AWX started what runs here."""
    return any(name in environment for name in _DIRECTORIES) or ("AWX_HOST" in environment and "JOB_ID" in environment)


def judge(path: str, environment: t.Mapping[str, str], mountinfo: str, in_container: bool) -> str:
    """Say why a directory does not outlive the job; empty where it does, and where there is no job.

    path, and the directories that the environment names, are without symlinks. mountinfo: what /proc/self/mountinfo says, empty where it
    cannot be read. in_container: whether a container engine left its mark.
    """
    if not is_job(environment):
        return ""
    mounts = _parsed(mountinfo)
    root, mount = _holder("/", mounts), _holder(path, mounts)
    if root is None or mount is None:
        return "what it is on cannot be told from /proc/self/mountinfo"
    private = os.path.dirname(os.path.dirname(environment.get("AWX_ISOLATED_DATA_DIR", "")))
    for directory, what in (*_thrown_away(environment, private), *_project_copies(path)):
        # A mount of its own further down is none of it.
        if _inside(path, directory) and not (mount.point != directory and _inside(mount.point, directory)):
            return f"it is in {directory}, {what}"
    on = f"{mount.kind} on {mount.point}"
    if in_container or private == _IN_CONTAINER or root.kind in _LAYERS:
        if mount.point == "/" or mount.kind in _LAYERS:
            return f"it is in the container's own file system ({on}), which goes with the container"
        if mount.kind in _MEMORY or _VOLUME_OF_CONTAINER.search(mount.root):
            return f"it is on a volume that goes with the container or its pod ({on})"
    elif mount.point == "/" and mount.kind in _MEMORY:
        return f"it is in memory ({on})"
    return ""


def _thrown_away(environment: t.Mapping[str, str], private: str) -> t.Iterator[tuple[str, str]]:
    """Yield directories that go when the job ends, and what they are."""
    what = "the private data directory of the job, which AWX removes when it ends"
    if environment.get("AWX_PRIVATE_DATA_DIR"):
        yield environment["AWX_PRIVATE_DATA_DIR"], what
    if private == _IN_CONTAINER or _THROWAWAY.fullmatch(os.path.basename(private)):
        yield private, what
        # Which ansible-runner mounts once more.
        yield os.path.join(private, "artifacts"), what


def _project_copies(path: str) -> t.Iterator[tuple[str, str]]:
    """Yield copies of a project that hold a path, and what they are."""
    parts = path.split("/")
    for number, part in enumerate(parts, 1):
        if _PROJECT_COPY.fullmatch(part):
            yield "/".join(parts[:number]), "a copy of the project, which ansible-runner removes when the job ends"


def _inside(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def _holder(path: str, mounts: t.Sequence[_Mount]) -> t.Optional[_Mount]:
    """Return the mount that a path is on, found as the kernel finds it: from the root down, for a later mount may hide earlier ones."""
    found, above = None, [mount for mount in mounts if mount.point == "/"]
    left = list(mounts)
    while above:
        found = min(above, key=lambda mount: len(mount.point))
        left.remove(found)
        above = [mount for mount in left if mount.parent == found.number and _inside(path, mount.point)]
    return found


def _parsed(mountinfo: str) -> list[_Mount]:
    mounts = []
    # By line ends alone: splitlines() also splits at what a name may hold.
    for line in mountinfo.split("\n"):
        before, _dash, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) >= 6 and after:
            root, point = (re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field) for field in fields[3:5])
            mounts.append(_Mount(fields[0], fields[1], root, point, after.split(" ")[0]))
    return mounts
