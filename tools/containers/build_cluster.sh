#!/usr/bin/env bash
# Builds kube-apiserver and kube-controller-manager from Debian 12's source of Kubernetes 1.20 into
# $LIVE_AVATAR_CLUSTER, and installs etcd.  Does nothing where that is done; takes minutes otherwise, and
# goes on where an earlier run was interrupted.  Ends with code 3 and one line where this machine lacks what it needs.
set -euo pipefail
out=${LIVE_AVATAR_CLUSTER:-$HOME/.cache/live-avatar/cluster}
version=1.20.2
servers=(kube-apiserver kube-controller-manager)
builders=(golang-go golang-github-modern-go-reflect2-dev make jq rsync dpkg-dev)
reflect=github.com/modern-go/reflect2
work=$out/work
source=$work/kubernetes-$version

lacks() {
	echo "no cluster: $1" >&2
	exit 3
}

install_packages() {
	apt-get install -qq -y --no-install-recommends "$@" >/dev/null || lacks "cannot install $*"
}

complete() {
	local server
	for server in "${servers[@]}"; do [ -x "$out/$server" ] || return 1; done
	command -v etcd >/dev/null
}

# Debian's source package, by a list of sources of its own: the machine's stays as it is.
fetch_source() {
	local folder=$work/fetched
	rm -rf "$folder" "$source"
	mkdir -p "$folder/parts" "$folder/lists/partial"
	sed 's/^Types:.*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$folder/parts/source.sources"
	local own=(-o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$folder/parts"
		-o "Dir::State::Lists=$folder/lists" -o "APT::Sandbox::User=root")
	apt-get "${own[@]}" update -qq &&
		(cd "$folder" && apt-get "${own[@]}" source --download-only -qq kubernetes) &&
		tar xzf "$folder"/kubernetes_*.orig.tar.gz -C "$folder" || lacks "Debian's source of Kubernetes cannot be fetched"
	# The copy of this package that comes with the source crashes with a present-day Go when it walks over a map.
	rm -rf "$folder/kubernetes-$version/vendor/$reflect"
	cp -a "/usr/share/gocode/src/$reflect" "$folder/kubernetes-$version/vendor/$reflect"
	mv "$folder/kubernetes-$version" "$source"
	rm -rf "$folder"
}

build() {
	cd "$source"
	mkdir -p .go/src/k8s.io "$work/home" "$work/tmp"
	ln -sfn ../../.. .go/src/k8s.io/kubernetes
	export HOME=$work/home TMPDIR=$work/tmp GOPATH=$PWD/.go PATH=/usr/lib/go/bin:$PATH CGO_ENABLED=0 GOFLAGS=
	export KUBE_GIT_VERSION=v$version KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20 KUBE_GIT_TREE_STATE=clean KUBE_GIT_COMMIT=debian
	make WHAT="${servers[*]/#/cmd/}"
	local server
	for server in "${servers[@]}"; do mv "_output/local/bin/linux/amd64/$server" "$out/$server"; done
}

if complete; then exit 0; fi
[ "$(id -u)" = 0 ] || lacks "it needs root"
command -v apt-get >/dev/null || lacks "it needs apt-get"
grep -q 'VERSION_CODENAME=bookworm' /etc/os-release || lacks "it needs Debian 12, whose source package this is"
apt-get update -qq
command -v etcd >/dev/null || install_packages etcd-server
if complete; then exit 0; fi
install_packages "${builders[@]}"
mkdir -p "$work"
if [ ! -d "$source" ]; then fetch_source; fi
build
chmod -R u+w "$work" # Go writes modules that nobody may change
rm -rf "$work"
