#!/usr/bin/env bash
# Tests the kernels for 64-bit Arm on another processor: cross-compiles them with the harness of tests/sanitize, and runs
# it under qemu. pytest does not run this: run it after a change of engine/layers/kernels/*.c. On Debian and Ubuntu it needs
#
#     apt-get install qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross
#
# With another compiler, whose programs need no system libraries:
#
#     CC="python -m ziglang cc -target aarch64-linux-musl" bash tests/qemu_aarch64.sh
set -euo pipefail
cd "$(dirname "$0")/.."

read -ra compiler <<< "${CC:-aarch64-linux-gnu-gcc}"
kernels=engine/layers/kernels
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT

flags=(-std=gnu11 -O2 -static -pthread -Wall -Wextra -Wno-psabi -Werror "-I$kernels" -DSCRATCH_IS_NOT_KEPT)
for file in "$kernels"/*.c; do
    # As in test_sanitize.py: scratch memory of threads.c ends exactly where the allocated memory ends.
    close=()
    [ "$(basename "$file")" != threads.c ] || close=(-Dmalloc=close_malloc -Dfree=close_free)
    "${compiler[@]}" "${flags[@]}" "${close[@]}" -c "$file" -o "$built/$(basename "$file" .c).o"
done
"${compiler[@]}" "${flags[@]}" tests/sanitize/harness.c "$built"/*.o -o "$built/harness" -lm

if python3 tests/sanitize/geometries.py | qemu-aarch64 "$built/harness"; then
    echo pass
else
    echo fail
    exit 1
fi
