#!/bin/sh
# Generate src/gen from the contract and from google.rpc (of googleapis-common-protos).
# Needs `make setup` at the root of the project, and `npm ci` here. A folder may be named instead.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-../../.venv/bin/python}
google=$("$python" -c 'import google.rpc; print(list(google.rpc.__path__)[0])')/../..
"$python" -m grpc_tools.protoc -I ../../proto -I "$google" \
  --plugin=node_modules/.bin/protoc-gen-es \
  --es_out="${1:-src/gen}" --es_opt=target=ts,import_extension=js \
  segment_anything/v1/segment_anything.proto google/rpc/status.proto google/rpc/error_details.proto
