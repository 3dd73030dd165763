#!/usr/bin/env bash
# lab.sh COMMAND...: runs a command, podman above all, inside the lab that setup.sh makes.  The machine's own files
# are under /host there.  `lab.sh --leave` undoes the mounts.
#
# The lab is a mount namespace with a root of its own: a chroot would not do, since `podman exec` enters a container
# by the mount namespace of podman and would come out at the machine's root.
set -euo pipefail
lab=${LIVE_AVATAR_LAB:-$HOME/.cache/live-avatar/lab}
root=$lab/root
place=/run/live-avatar-lab
pinned=$place/namespace

leave() {
	if mountpoint -q "$pinned"; then umount "$pinned"; fi
	if mountpoint -q "$place"; then umount "$place"; fi
}

enter() {
	mkdir -p "$place"
	if ! mountpoint -q "$place"; then # a namespace can be pinned on a private mount alone
		mount --bind "$place" "$place"
		mount --make-private "$place"
	fi
	touch "$pinned"
	cp -L /etc/resolv.conf "$root/etc/resolv.conf"
	cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
	unshare --mount="$pinned" --propagation private sh -euc '
		mount --bind "$1" "$1"
		cd "$1"
		mount -t proc proc proc
		mount --rbind /sys sys
		mount --rbind /dev dev
		mount -t tmpfs -o mode=755 tmpfs run
		mount -t tmpfs -o mode=1777 tmpfs tmp
		mkdir -p host old
		mount --rbind / host
		mount --make-rprivate host
		pivot_root . old
		umount -l /old
	' sh "$root"
}

if [ "${1:-}" = --leave ]; then
	leave
	exit 0
fi
[ -d "$root" ] || { echo "there is no container lab in $lab: make lab" >&2 && exit 3; }
exec 9>/run/live-avatar-lab.lock
flock 9
mountpoint -q "$pinned" || enter
exec 9>&-
exec nsenter --mount="$pinned" -- \
	env PODMAN_IGNORE_CGROUPSV1_WARNING=1 HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
