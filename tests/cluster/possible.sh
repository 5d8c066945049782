#!/usr/bin/env bash
# Find out whether this machine can hold the pretend hosts of the cluster tests: status 0, or one line that says why not.
set -uo pipefail

no() { echo "$*"; exit 1; }

[[ $(id -u) == 0 ]] || no "they need root (this is user $(id -u))"
for program in unshare nsenter setpriv mount mknod; do
    command -v "$program" >/dev/null || no "$program is missing (Debian's util-linux and mount, coreutils)"
done
scratch=$(mktemp -d) || no "no temporary directory can be made"
trap 'rm -rf "$scratch"' EXIT
said=$(mknod "$scratch/device" c 1 3 2>&1) || no "no device files can be made: ${said##*: }"
# What a pretend host does first (hosts.py); "ip" comes with install.sh, so ask again after that.
# shellcheck disable=SC2016
said=$(unshare --net --uts --ipc --mount --pid --fork --mount-proc bash -c '
    set -e
    hostname probe
    mount -t tmpfs tmpfs "$1"
    mount --bind /tmp "$1"
    ! command -v ip >/dev/null || { ip link add br0 type bridge && ip link add p0 type veth peer name eth0; }
' probe "$scratch" 2>&1) || no "no pretend hosts can be made: ${said//$'\n'/; }"
