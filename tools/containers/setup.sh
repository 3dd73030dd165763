#!/usr/bin/env bash
# Sets up a podman 5 of its own on Debian: a small Debian 13 in $LIVE_AVATAR_LAB, beside the machine's libraries.
# Does nothing where that is done.  Ends with code 3 and one line where this machine lacks what it needs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
lab=${LIVE_AVATAR_LAB:-$HOME/.cache/live-avatar/lab}
edition=2 # to be raised with every change of what follows

lacks() {
	echo "no container lab: $1" >&2
	exit 3
}

if [ "$(cat "$lab/edition" 2>/dev/null)" = "$edition" ]; then exit 0; fi
[ "$(uname -s)" = Linux ] || lacks "it needs Linux"
[ "$(id -u)" = 0 ] || lacks "it needs root"
command -v apt-get >/dev/null || lacks "it needs apt-get"
command -v mmdebstrap >/dev/null || {
	apt-get update -qq && apt-get install -qq -y --no-install-recommends mmdebstrap >/dev/null
} || lacks "mmdebstrap cannot be installed"

"$here/lab.sh" --leave
rm -rf "$lab"
mkdir -p "$lab"
mmdebstrap --quiet --variant=apt --mode=root \
	--dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--include=podman,runc,netavark,aardvark-dns,catatonit,nftables,iptables,mount,jq,ca-certificates,procps \
	trixie "$lab/root" || lacks "a Debian 13 cannot be fetched"

install -D -m 755 "$here/runtime.sh" "$lab/root/usr/local/bin/runtime"
install -D -m 644 "$here/containers.conf" "$lab/root/etc/containers/containers.conf"
mkdir -p "$lab/root/etc/cdi"
"$here/pretended_gpus.sh" 8 >"$lab/root/etc/cdi/pretended.json"
echo "$edition" >"$lab/edition"
