#!/usr/bin/env bash
# Generates the Go package of the public API: generate.sh PROTOS INTO [IMPORT_PATH]
# Needs protoc, protoc-gen-go and protoc-gen-go-grpc (Debian: protobuf-compiler golang-goprotobuf-dev
# protoc-gen-go-grpc). The protos name no Go package, so that each user chooses the import path.
set -euo pipefail
protos=$1 into=$2 path=${3:-example.com/generate}
options=()
for kind in go go-grpc; do
	options+=("--${kind}_out=$into" "--${kind}_opt=module=$path")
	for file in avatar_service media; do
		options+=("--${kind}_opt=Mlive_avatar/v1/$file.proto=$path/live_avatar/v1;avatarv1")
	done
	options+=("--${kind}_opt=Mgoogle/rpc/status.proto=google.golang.org/genproto/googleapis/rpc/status")
done
exec protoc "-I$protos" "${options[@]}" live_avatar/v1/avatar_service.proto live_avatar/v1/media.proto
