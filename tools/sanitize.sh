#!/usr/bin/env bash
# Run the tests of sam_core with its C built under AddressSanitizer and UBSan.
# Usage: tools/sanitize.sh [pytest arguments]; PYTHON is the interpreter, CC a gcc.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=$(command -v "${PYTHON:-$root/.venv/bin/python}")
cc=${CC:-gcc}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

# A package of its own, first on the path: the Python files and the instrumented extension.
mkdir "$build/sam_core"
cp "$root"/inference/sam_core/*.py "$build/sam_core"
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
"$cc" -std=c11 -g -O1 -ffp-contract=off -fno-omit-frame-pointer -fPIC -shared \
	-fsanitize=address,undefined -fno-sanitize-recover=all \
	-Wall -Wextra -Wpedantic -Wconversion -Werror -isystem "$include" \
	"$root"/inference/sam_core/*.c -o "$build/sam_core/_native$suffix"

# CPython keeps memory until the end, so leaks are left to tests/isolated, which count it and
# limit it as the sanitizer cannot have it.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1
export LD_PRELOAD=$("$cc" -print-file-name=libasan.so):$("$cc" -print-file-name=libstdc++.so)
export PYTHONPATH=$build PYTHONMALLOC=malloc

cd "$root"
"$python" -c "import sam_core._native as native; assert native.__file__.startswith('$build')"
# What the sanitizers say goes to file descriptor 2, which pytest must not hold back.
"$python" -m pytest -p no:cacheprovider --capture=sys -k 'not process_of_its_own' "$@" tests/unit/test_core_*.py
