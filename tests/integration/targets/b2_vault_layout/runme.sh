#!/usr/bin/env bash
# Copyright (c) community.backblaze contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

set -eux -o pipefail

export ANSIBLE_ROLES_PATH=../ ANSIBLE_ACTION_PLUGINS=../setup_standin/action_plugins
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "one password" > "$work/dev"
echo "another password" > "$work/prod"
cat > "$work/editor" <<'END'
#!/bin/sh
printf "%b" "$TEXT" >> "$1"
END
chmod +x "$work/editor"

ansible-playbook main.yml -i localhost, -c local -e "work=$work" \
    --vault-id "dev@$work/dev" --vault-id "prod@$work/prod" "$@" 2>&1 | tee "$work/output"

# The playbook left every key there was, and the master key: none is on the screen, in a file of the run or in a journal.
test "$(wc -l < "$work/keys")" -ge 6
set +x
if grep -rqFf "$work/keys" "$work/output" "$work/group_vars" "$work/host_vars"; then
    echo "A key is in the output, or in clear in a vault directory."
    exit 1
fi
