#!/bin/sh
# Generates everything that is generated from hedgerow/v1/*.proto: Go, the gRPC
# and REST stubs, openapi.yaml and docs.html. It needs Go and nothing else; the
# tools come from tools/go.mod. `go generate ./openapi` runs it.
set -eu
cd "$(dirname "$0")"
root=$(cd .. && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

# buf starts plugins by name, so they are built once and put on its path.
for tool in \
	google.golang.org/protobuf/cmd/protoc-gen-go \
	google.golang.org/grpc/cmd/protoc-gen-go-grpc \
	github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway \
	github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv3 \
	github.com/bufbuild/buf/cmd/buf; do
	go build -C "$root" -modfile=tools/go.mod -o "$build/bin/" "$tool"
done
PATH="$build/bin:$PATH"

buf lint
sed "s#out: build#out: $build/doc#" buf.gen.yaml >"$build/buf.gen.yaml"
rm -f hedgerow/v1/*.pb.go hedgerow/v1/*.pb.gw.go
buf generate --template "$build/buf.gen.yaml"
go run ./internal/document "$build/doc/hedgerow/v1/control.openapi.json"
