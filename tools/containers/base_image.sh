#!/usr/bin/env bash
# base_image.sh TAG: makes a stand-in for python:3.11-slim from Debian 12's packages, inside the lab, for a machine
# that reaches no image registry.  Python 3.11 lies in /usr/local, as in the real one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mmdebstrap --quiet --variant=essential --mode=root --format=tar --include=python3.11,python3.11-venv,ca-certificates,libstdc++6 \
	--dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--customize-hook='chroot "$1" python3.11 -m venv /usr/local' \
	--customize-hook='find "$1/usr" -name __pycache__ -prune -exec rm -r {} +' \
	bookworm "$folder/base.tar"
"$here/lab.sh" podman import --quiet \
	--change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' \
	--change 'ENV LANG=C.UTF-8' \
	--change 'CMD ["python3"]' \
	"/host$folder/base.tar" "$1"
