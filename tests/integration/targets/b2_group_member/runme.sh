#!/usr/bin/env bash
# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

set -eux -o pipefail

export ANSIBLE_ROLES_PATH=../ ANSIBLE_ACTION_PLUGINS=../setup_standin/action_plugins
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "a vault password" > "$work/password"

ansible-playbook main.yml -i localhost, -c local -e "work=$work" --vault-password-file "$work/password" "$@" 2>&1 | tee "$work/output"

# Releases differ in whether a result keeps its warnings.
tr -s "\n " " " < "$work/output" | grep -q "WARNING\]: key_missing: Backblaze shows[^[]* bob@x.example: Account [0-9a-f]* is in the Group"

# The playbook left every key there was: none is on the screen, though the plain module returns keys.
test "$(wc -l < "$work/keys")" -ge 4
set +x
if grep -qFf "$work/keys" "$work/output"; then
    echo "A key is in the output."
    exit 1
fi
