#!/usr/bin/env bash
# Feeds made-up bytes to every parser of bytes from outside, each for so many seconds.
#
#   targets/fuzz/run.sh SECONDS [TARGET...]
#
# Needs cargo-fuzz (cargo install cargo-fuzz --locked) and a C++ compiler; a nightly toolchain is not
# needed: no sanitizer runs, since the parsers are safe Rust, where what a sanitizer would find is a
# panic anyway. What is found is kept in target/fuzz/artifacts/; put a minimised copy into corpus/, which
# `cargo test` runs.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ $# -lt 1 ] || ! [ "$1" -gt 0 ] 2>/dev/null; then
  echo "usage: targets/fuzz/run.sh SECONDS [TARGET...]" >&2
  exit 2
fi
seconds=$1
shift
command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: cargo install cargo-fuzz" >&2; exit 2; }

names=("$@")
if [ ${#names[@]} = 0 ]; then
  for file in {targets,loadgen}/fuzz/fuzz_targets/*.rs; do names+=("$(basename "$file" .rs)"); done
fi

# What comes over NATS is read by the load generator; everything else from outside by the targets.
home() {
  if [ -e "loadgen/fuzz/fuzz_targets/$1.rs" ]; then echo loadgen/fuzz; else echo targets/fuzz; fi
}

# -O: what is asserted where is Cargo.toml's to say.
for dir in $(for name in "${names[@]}"; do home "$name"; done | sort -u); do
  cargo fuzz build -O --fuzz-dir "$dir" --target-dir target/fuzz -s none
done
for name in "${names[@]}"; do
  # What libFuzzer finds on the way is kept apart: only what was minimised is committed.
  found=target/fuzz/corpus/$name
  mkdir -p "$found" "target/fuzz/artifacts/$name"
  echo "== $name, ${seconds} s"
  # 4 KiB is several times the longest message, 16 KiB more than a connection's longest head; a parser
  # that wants 512 MiB for either is a find.
  len=4096
  if [ "$name" = relay_connection ]; then len=16384; fi
  dir=$(home "$name")
  cargo fuzz run -O --fuzz-dir "$dir" --target-dir target/fuzz -s none "$name" \
    "$found" "$dir/corpus/$name" -- \
    -max_total_time="$seconds" -max_len="$len" -rss_limit_mb=512 -timeout=10 -print_final_stats=1 \
    -artifact_prefix="target/fuzz/artifacts/$name/"
done
