#!/bin/sh
# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The vault password of the scenario: made once a run, kept with the scenario's state.
set -eu
file="$MOLECULE_EPHEMERAL_DIRECTORY/vault-password"
[ -s "$file" ] || (umask 077 && od -An -N16 -tx1 /dev/urandom | tr -d ' \n' > "$file")
cat "$file"
