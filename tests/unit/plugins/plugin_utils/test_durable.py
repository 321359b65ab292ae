# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which directories outlive a job, told from what each way to run one lays out."""

from __future__ import annotations

import os

import hypothesis
import pytest
from hypothesis import strategies as st

from ansible_collections.community.backblaze.plugins.module_utils._errors import StoreError
from ansible_collections.community.backblaze.plugins.plugin_utils import _durable
from ansible_collections.community.backblaze.plugins.plugin_utils._durable import is_job, judge, lost_with_job, prove_durable

HEX = "3f9d" * 16
LAYER = "lowerdir=/var/lib/containers/storage/overlay/l/A:/var/lib/containers/storage/overlay/l/B,upperdir=/u/diff,workdir=/u/work"
ENGINE = """\
1300 1201 0:200 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
1301 1201 0:201 / /dev rw,nosuid - tmpfs tmpfs rw,seclabel,size=65536k,mode=755,inode64
1302 1301 0:203 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=64000k,inode64
1303 1201 0:52 /containers/1/userdata/hosts /etc/hosts rw,nosuid,nodev - tmpfs tmpfs rw,seclabel,size=3200000k,mode=755"""

#: An execution node: podman, the private data directory at /runner, and what AWX's own setting exposes.
AWX_NODE = f"""\
1201 1180 0:97 / / rw,relatime master:400 - overlay overlay rw,{LAYER}
{ENGINE}
1310 1201 253:0 /tmp/awx_61_ifxztvul /runner rw,relatime master:1 - xfs /dev/mapper/rhel-root rw,seclabel,attr2,inode64
1311 1201 253:3 /customers /srv/customers rw,relatime master:9 - xfs /dev/mapper/rhel-srv rw,seclabel,attr2,inode64
1312 1201 0:44 / /srv/nfs rw,relatime master:12 - nfs4 files.example.com:/keys rw,vers=4.2,proto=tcp,addr=192.0.2.7
1313 1201 0:98 / /srv/discarded rw,relatime - overlay overlay rw,lowerdir=/srv/discarded,upperdir=/v/upper,workdir=/v/work
1314 1201 253:0 /var/lib/containers/storage/volumes/{HEX}/_data /srv/unnamed rw,relatime master:1 - xfs /dev/mapper/rhel-root rw
1315 1201 253:0 /var/lib/containers/storage/volumes/keys/_data /srv/named rw,relatime master:1 - xfs /dev/mapper/rhel-root rw
1316 1310 253:3 /customers /runner/project/kept rw,relatime master:9 - xfs /dev/mapper/rhel-srv rw,seclabel,attr2,inode64
"""
#: A container group: /runner is a directory of the pod's container, or an emptyDir where the pod specification says so.
KUBERNETES = f"""\
2105 1990 0:310 / / rw,relatime master:700 - overlay overlay rw,lowerdir=/c/snapshots/9/fs,upperdir=/c/snapshots/12/fs,workdir=/c/snapshots/12/work
2106 2105 0:312 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
2107 2105 0:313 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
2120 2105 259:1 /var/lib/kubelet/pods/7d1c/etc-hosts /etc/hosts rw,noatime - ext4 /dev/nvme0n1p1 rw
2121 2105 259:1 /var/lib/kubelet/pods/7d1c/volumes/kubernetes.io~empty-dir/scratch /scratch rw,noatime - ext4 /dev/nvme0n1p1 rw
2122 2105 0:305 / /memory rw,relatime - tmpfs tmpfs rw,size=16384000k
2123 2105 259:4 / /srv/customers rw,relatime - ext4 /dev/nvme1n1 rw,seclabel
2124 2105 0:401 / /srv/shared rw,relatime - ceph 192.0.2.9:6789:/volumes/csi/1 rw,name=csi,secret=<hidden>,acl
2125 2105 259:1 /var/lib/containerd/io.containerd.grpc.v1.cri/containers/{HEX}/volumes/{HEX} /image rw,noatime - ext4 /dev/nvme0n1p1 rw
"""
#: ansible-navigator: the user's directory at its own path, and its own artifacts in a temporary directory.
NAVIGATOR = f"""\
900 871 0:61 / / rw,nodev,relatime - fuse.fuse-overlayfs fuse-overlayfs rw,user_id=0,group_id=0,default_permissions,allow_other
{ENGINE.replace("1201", "900")}
910 900 8:2 /ada/customers /home/ada/customers rw,relatime master:33 - ext4 /dev/sda2 rw
911 900 0:35 /ansible-navigator_ab12 /runner rw,nosuid,nodev - tmpfs tmpfs rw,size=8000000k
912 911 0:35 /ansible-navigator_ab12/artifacts /runner/artifacts rw,nosuid,nodev - tmpfs tmpfs rw,size=8000000k
"""
#: An engine whose images are no overlay, such as podman's driver vfs, on a machine with one file system.
VFS = f"""\
500 480 8:1 /var/lib/containers/storage/vfs/dir/{HEX} / rw,relatime - ext4 /dev/sda1 rw
501 500 8:1 /srv/customers /srv/customers rw,relatime - ext4 /dev/sda1 rw
"""
#: No container: a machine with /tmp in memory, a mounted directory with a blank in its name, and one whose mount hides another.
PLAIN = """\
22 28 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
31 28 0:35 / /tmp rw,nosuid,nodev shared:17 - tmpfs tmpfs rw,size=8000000k
40 28 0:44 / /mnt/the\\040keys rw,relatime shared:20 - nfs4 files.example.com:/keys rw,vers=4.2
41 28 8:5 / /data/keys rw,relatime shared:21 - ext4 /dev/sdb1 rw
42 28 0:50 / /data rw,relatime shared:22 - tmpfs tmpfs rw
"""
#: The same with its root covered by another one, and so with all that was mounted below.
COVERED = PLAIN + "50 28 0:60 / / rw - tmpfs tmpfs rw\n"
#: bubblewrap, which ansible-runner calls a sandbox.
SANDBOX = """\
700 650 0:70 /newroot / rw,nosuid,nodev,relatime - tmpfs tmpfs rw,uid=0,gid=0
701 700 8:1 /usr /usr ro,nosuid,nodev,relatime master:1 - ext4 /dev/sda1 rw
702 700 8:1 /srv/private /srv/private rw,nosuid,nodev,relatime master:1 - ext4 /dev/sda1 rw
"""

RUNNER = {"AWX_ISOLATED_DATA_DIR": "/runner/artifacts/61"}
AWX = {**RUNNER, "AWX_PRIVATE_DATA_DIR": "/tmp/awx_61_ifxztvul", "AWX_HOST": "https://awx.example.com", "JOB_ID": "61"}
OUTSIDE = {"AWX_ISOLATED_DATA_DIR": "/srv/private/artifacts/5c6f"}
CONTAINER, NO_MARK = True, False

REMOVED = "the private data directory of the job"
OWN = "the container's own file system"
VOLUME = "a volume that goes with the container"


@pytest.mark.parametrize(
    "layout, environment, marked, path, reason",
    [
        (AWX_NODE, AWX, CONTAINER, "/runner/project/host_vars", f"/runner, {REMOVED}"),
        (AWX_NODE, AWX, CONTAINER, "/runner", f"/runner, {REMOVED}"),
        (AWX_NODE, AWX, CONTAINER, "/runner/artifacts/61/keys", f"/runner, {REMOVED}"),
        (AWX_NODE, AWX, CONTAINER, "/home/runner/.local/state/community.backblaze", f"{OWN} (overlay on /)"),
        # Not the other container root: another directory whose name begins like that.
        (AWX_NODE, AWX, CONTAINER, "/runners/keys", OWN),
        (AWX_NODE, AWX, CONTAINER, "/srv/customers/host_vars", ""),
        (AWX_NODE, AWX, CONTAINER, "/srv/customers2", OWN),
        (AWX_NODE, AWX, CONTAINER, "/srv/nfs", ""),
        (AWX_NODE, AWX, CONTAINER, "/srv/discarded/keys", f"{OWN} (overlay on /srv/discarded)"),
        (AWX_NODE, AWX, CONTAINER, "/srv/unnamed/keys", VOLUME),
        (AWX_NODE, AWX, CONTAINER, "/srv/named/keys", ""),
        (AWX_NODE, AWX, CONTAINER, "/runner/project/kept/host_vars", ""),
        (AWX_NODE, AWX, CONTAINER, "/dev/shm/keys", VOLUME),
        # The layout alone tells that this is a container, and so does its root.
        (AWX_NODE, RUNNER, NO_MARK, "/runner/project/host_vars", REMOVED),
        (AWX_NODE, RUNNER, NO_MARK, "/dev/shm/keys", VOLUME),
        (AWX_NODE, {"AWX_HOST": "https://awx.example.com", "JOB_ID": "61"}, NO_MARK, "/srv/unnamed", VOLUME),
        (KUBERNETES, AWX, NO_MARK, "/runner/project/host_vars", f"/runner, {REMOVED}"),
        (KUBERNETES, AWX, NO_MARK, "/home/runner", f"{OWN} (overlay on /)"),
        (KUBERNETES, AWX, NO_MARK, "/scratch/keys", f"{VOLUME} or its pod (ext4 on /scratch)"),
        (KUBERNETES, AWX, NO_MARK, "/memory", f"{VOLUME} or its pod (tmpfs on /memory)"),
        (KUBERNETES, AWX, NO_MARK, "/image/keys", VOLUME),
        (KUBERNETES, AWX, NO_MARK, "/srv/customers/host_vars", ""),
        (KUBERNETES, AWX, NO_MARK, "/srv/shared/host_vars", ""),
        (NAVIGATOR, RUNNER, CONTAINER, "/home/ada/customers/host_vars", ""),
        (NAVIGATOR, RUNNER, CONTAINER, "/home/ada", f"{OWN} (fuse.fuse-overlayfs on /)"),
        (NAVIGATOR, RUNNER, CONTAINER, "/runner/artifacts/61", REMOVED),
        (NAVIGATOR, RUNNER, NO_MARK, "/runner/artifacts/61", REMOVED),
        (NAVIGATOR, OUTSIDE, NO_MARK, "/srv/private/project", OWN),
        (NAVIGATOR, OUTSIDE, NO_MARK, "/home/ada/customers/host_vars", ""),
        (VFS, OUTSIDE, CONTAINER, "/srv/private/project", f"{OWN} (ext4 on /)"),
        (VFS, OUTSIDE, CONTAINER, "/srv/customers", ""),
        (PLAIN, OUTSIDE, NO_MARK, "/srv/private/project/host_vars", ""),
        (PLAIN, OUTSIDE, NO_MARK, "/tmp/keys", ""),
        (PLAIN, OUTSIDE, NO_MARK, "/mnt/the keys/host_vars", ""),
        (PLAIN, OUTSIDE, CONTAINER, "/mnt/the keys/host_vars", ""),
        (PLAIN, OUTSIDE, CONTAINER, "/data/keys/host_vars", f"{VOLUME} or its pod (tmpfs on /data)"),
        # Without a container AWX's and a worker's directories are where tempfile made them.
        (PLAIN, AWX, NO_MARK, "/tmp/awx_61_ifxztvul/project/host_vars", f"/tmp/awx_61_ifxztvul, {REMOVED}"),
        (PLAIN, {"AWX_ISOLATED_DATA_DIR": "/tmp/awx_61_ifxztvul/artifacts/61"}, NO_MARK, "/tmp/awx_61_ifxztvul/project", REMOVED),
        (PLAIN, {"AWX_ISOLATED_DATA_DIR": "/var/tmp/tmpab_12xyz/artifacts/9"}, NO_MARK, "/var/tmp/tmpab_12xyz/project", REMOVED),
        (PLAIN, {"AWX_ISOLATED_DATA_DIR": "/var/tmp/tmpab_12xyz/artifacts/9"}, NO_MARK, "/var/tmp/other", ""),
        (PLAIN, {"AWX_ISOLATED_DATA_DIR": "/srv/.ansible-runner-ab_12xyz/artifacts/9"}, NO_MARK, "/srv/.ansible-runner-ab_12xyz/project", REMOVED),
        (PLAIN, OUTSIDE, NO_MARK, "/tmp/runner_di_ab_12xyz/host_vars", "/tmp/runner_di_ab_12xyz, a copy of the project"),
        (PLAIN, OUTSIDE, NO_MARK, "/srv/runner_di_of_ada/host_vars", ""),
        (PLAIN, OUTSIDE, NO_MARK, "/srv/runner_di_ab_12xyz_of_ada/host_vars", ""),
        (COVERED, OUTSIDE, NO_MARK, "/srv/private/project", "in memory (tmpfs on /)"),
        (COVERED, OUTSIDE, NO_MARK, "/mnt/the keys", "in memory (tmpfs on /)"),
        (SANDBOX, OUTSIDE, NO_MARK, "/srv/private/project", ""),
        (SANDBOX, OUTSIDE, NO_MARK, "/tmp/keys", "in memory (tmpfs on /)"),
        ("", OUTSIDE, NO_MARK, "/srv/customers", "cannot be told"),
        ("nonsense\n1 2 3 - x\n", OUTSIDE, NO_MARK, "/srv/customers", "cannot be told"),
        # In a chroot that is no mount of its own.
        (PLAIN.replace("28 1 8:1 / / ", "28 1 8:1 / /else "), OUTSIDE, NO_MARK, "/mnt/the keys", "cannot be told"),
    ],
)
def test_what_a_job_leaves_behind_is_told_from_where_it_lies(layout, environment, marked, path, reason):
    found = judge(path, environment, layout, marked)
    assert reason in found and bool(found) is bool(reason), found


@pytest.mark.parametrize("layout", [AWX_NODE, KUBERNETES, NAVIGATOR, VFS, PLAIN, SANDBOX, ""])
@pytest.mark.parametrize("environment", [{}, {"JOB_ID": "61"}, {"AWX_HOST": "https://awx.example.com"}, {"HOME": "/runner"}])
def test_outside_of_a_job_nothing_is_judged(layout, environment):
    assert not is_job(environment)
    for path in ("/runner/project/host_vars", "/tmp/runner_di_ab_12xyz", "/home/runner", "/dev/shm"):
        assert judge(path, environment, layout, CONTAINER) == ""


names = st.sampled_from(["a", "b", "runner", "srv", "kubernetes.io~empty-dir"])
paths = st.lists(names, max_size=4).map(lambda parts: "/" + "/".join(parts))
numbers = st.integers(1, 6).map(str)
lines = st.builds(
    lambda number, parent, root, point, kind: f"{number} {parent} 8:1 {root} {point} rw - {kind} none rw",
    numbers, numbers, paths, paths, st.sampled_from(["ext4", "overlay", "tmpfs", "nfs4"]),
)  # fmt: skip


@hypothesis.given(paths, st.lists(lines, max_size=8), st.text(max_size=20), st.booleans())
def test_in_a_job_a_place_is_durable_only_on_a_mount_that_is_none_of_the_jobs_own(path, mounts, noise, marked):
    text = "\n".join([noise, *mounts])
    if judge(path, AWX, text, marked):
        return
    assert any(f" {point} rw - {kind} " in line for line in mounts for point in _above(path) for kind in ("ext4", "nfs4"))


def _above(path):
    while path != "/":
        yield path
        path = os.path.dirname(path)


def test_the_mount_of_a_path_is_the_one_that_the_kernel_names():
    """The kernel itself says on which mount an open directory is."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    mounts = _durable._parsed(text)
    assert len(mounts) == text.count("\n") >= 2
    compared = 0
    for path in {"/", os.getcwd(), os.path.expanduser("~"), *(mount.point for mount in mounts)}:
        try:
            directory = os.open(path, os.O_PATH)
        except OSError:
            continue
        try:
            with open(f"/proc/self/fdinfo/{directory}", encoding="ascii") as file:
                number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
        finally:
            os.close(directory)
        assert _durable._holder(os.path.realpath(path), mounts).number == number, path
        compared += 1
    assert compared >= 2


# The facts of this very machine


@pytest.fixture
def in_job(monkeypatch, tmp_path):
    """A job of AWX without a container: its private data directory, where nothing stays."""
    private = tmp_path / "private"
    (private / "project").mkdir(parents=True)
    for name in ("AWX_ISOLATED_DATA_DIR", "AWX_HOST", "JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWX_PRIVATE_DATA_DIR", str(private))
    return private


def test_symlinks_lead_nowhere_else(in_job, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(in_job / "project")
    for path in (tmp_path / "link", tmp_path / "link" / "not" / "yet" / "there", tmp_path / "other" / ".." / "private"):
        assert f"it is in {os.path.realpath(in_job)}, {REMOVED}" in lost_with_job(str(path))
    (tmp_path / "alias").symlink_to(in_job)
    monkeypatch.setenv("AWX_PRIVATE_DATA_DIR", str(tmp_path / "alias"))
    assert REMOVED in lost_with_job(str(in_job / "project"))
    # A variable without a value names no directory, and not the working directory.
    monkeypatch.setenv("AWX_PRIVATE_DATA_DIR", "")
    monkeypatch.chdir(tmp_path)
    assert REMOVED not in lost_with_job(str(in_job / "project"))
    monkeypatch.delenv("AWX_PRIVATE_DATA_DIR")
    assert lost_with_job(str(in_job / "project")) == ""


def test_a_refusal_names_the_place_and_the_ways_out(in_job):
    with pytest.raises(StoreError) as caught:
        prove_durable("vault_dir", str(in_job / "host_vars"))
    for said in (f"vault_dir {in_job}/host_vars", "would be lost with this job", "Mount a directory", "vault_dir_is_durable: true"):
        assert said in str(caught.value)
