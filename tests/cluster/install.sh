#!/usr/bin/env bash
# Install what the cluster tests need, as root on Debian; nothing is done when all of it is there.
set -euo pipefail

packages=(munge slurmctld slurmd slurm-client libpmix-dev openssh-server iproute2 util-linux)
absent=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || absent+=("$package")
done
((${#absent[@]})) || exit 0
if [[ $(id -u) != 0 ]]; then
    echo "The cluster tests need root and these packages: ${absent[*]}" >&2
    exit 1
fi
echo "Installing for the cluster tests: ${absent[*]}"
# The packages' own services must not start: the tests start their own, inside namespaces.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${absent[@]}"
