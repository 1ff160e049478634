#!/usr/bin/env bash
# Recovers keys that our client registered with other people's implementations of RFC 9807, from
# crates.io (docs/INTEROP.md). Needs the registry, or its packages fetched before.
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
exec cargo test --quiet -- "$@"
