#!/usr/bin/env bash
# Builds kube-apiserver and kube-controller-manager from Debian 12's source of Kubernetes 1.20 into
# $LIVE_AVATAR_CLUSTER, and installs etcd and kubectl.  Does nothing where that is done; takes minutes otherwise.
# Ends with code 3 and one line where this machine lacks what it needs.
set -euo pipefail
out=${LIVE_AVATAR_CLUSTER:-$HOME/.cache/live-avatar/cluster}
version=1.20.2
servers=(kube-apiserver kube-controller-manager)
builders=(golang-go golang-github-modern-go-reflect2-dev make jq rsync dpkg-dev)
reflect=github.com/modern-go/reflect2

lacks() {
	echo "no cluster: $1" >&2
	exit 3
}

install_packages() {
	apt-get install -qq -y --no-install-recommends "$@" >/dev/null || lacks "cannot install $*"
}

# fetch_source FOLDER: Debian's source package, by a list of sources of its own: the machine's stays as it is.
fetch_source() {
	mkdir -p "$1/parts" "$1/lists/partial"
	sed 's/^Types:.*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$1/parts/source.sources"
	local own=(-o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$1/parts" -o "Dir::State::Lists=$1/lists")
	apt-get "${own[@]}" update -qq
	(cd "$1" && apt-get "${own[@]}" source --download-only -qq "kubernetes=$version*" 2>/dev/null ||
		apt-get "${own[@]}" source --download-only -qq kubernetes)
	tar xzf "$1"/kubernetes_*.orig.tar.gz -C "$1"
}

complete() {
	local server
	for server in "${servers[@]}"; do [ -x "$out/$server" ] || return 1; done
	command -v etcd >/dev/null && command -v kubectl >/dev/null
}

if complete; then exit 0; fi
[ "$(id -u)" = 0 ] || lacks "it needs root"
command -v apt-get >/dev/null || lacks "it needs apt-get"
grep -q 'VERSION_CODENAME=bookworm' /etc/os-release || lacks "it needs Debian 12, whose source package this is"
apt-get update -qq
command -v etcd >/dev/null || install_packages etcd-server
command -v kubectl >/dev/null || install_packages kubernetes-client
if complete; then exit 0; fi
install_packages "${builders[@]}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fetch_source "$work" || lacks "Debian's source of Kubernetes cannot be fetched"
cd "$work/kubernetes-$version"
# The copy of this package that comes with the source crashes with a present-day Go when it walks over a map.
rm -rf "vendor/$reflect"
cp -a "/usr/share/gocode/src/$reflect" "vendor/$reflect"
mkdir -p .go/src/k8s.io "$work/home"
ln -s ../../.. .go/src/k8s.io/kubernetes
export HOME=$work/home GOPATH=$PWD/.go PATH=/usr/lib/go/bin:$PATH CGO_ENABLED=0 GOFLAGS=
export KUBE_GIT_VERSION=v$version KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20 KUBE_GIT_TREE_STATE=clean KUBE_GIT_COMMIT=debian
make WHAT="${servers[*]/#/cmd/}"
mkdir -p "$out"
for server in "${servers[@]}"; do
	cp "_output/local/bin/linux/amd64/$server" "$out/$server.new"
	mv "$out/$server.new" "$out/$server"
done
