#!/bin/sh
# Runs every test of a finished build and ends with "N passed, N failed".  Usage: tests/check.sh BUILD
# One line a test; what a failed one printed follows it.  MILLRACE_CHECK=quick leaves out sanitizers and emulation.
set -u
cd "$(dirname "$0")/.."
B=$1
CC=${CC:-gcc}
jobs=$(nproc)
passed=0 failed=0 log=$B/check.log
mkdir -p "$B"

# A test's count: cmocka's "[  PASSED  ] N", our own "N passed, N failed", else one.
count() {
    p=$(sed -n 's/.*\[  PASSED  \] \([0-9]*\) test.*/\1/p; s/.*: \([0-9]*\) passed, [0-9]* failed$/\1/p' "$log" | awk '{s += $1} END {print s + 0}')
    f=$(sed -n 's/.*\[  FAILED  \] \([0-9]*\) test.*/\1/p; s/.*: [0-9]* passed, \([0-9]*\) failed$/\1/p' "$log" | awk '{s += $1} END {print s + 0}')
    [ "$1" = 0 ] && [ "$p" = 0 ] && p=1
    [ "$1" != 0 ] && [ "$f" = 0 ] && f=1
    passed=$((passed + p)) failed=$((failed + f))
}

t() {
    name=$1
    shift
    begin=$(date +%s)
    "$@" >"$log" 2>&1
    code=$?
    count $code
    if [ $code = 0 ]; then
        echo "ok     $name  ($p, $(($(date +%s) - begin)) s)"
        grep -h '^skipped' "$log" | sed 's/^/       /'
    else
        echo "FAILED $name (exit $code)"
        tail -n 40 "$log" | sed 's/^/       /'
    fi
}

t lint/includes sh tests/lint/includes.sh
t lint/format sh tests/lint/format.sh
for b in $(find "$B/tests" -type f -name 'test_*' -perm -u+x | sort); do
    t "${b#"$B"/tests/}" "$b"
done
for s in tests/app/test_*.sh; do
    t "app/$(basename "$s" .sh)" sh "$s" "$B/millrace"
done
t install sh tests/app/install.sh "$B"

if [ "${MILLRACE_CHECK:-full}" = full ]; then
    # Address and undefined-behaviour sanitizers: parsers, faults, program, one vector per family.
    S=$B/san
    if make -j"$jobs" B="$S" SAN=address,undefined OPT="-O1 -g" all tests >"$B/san.log" 2>&1; then
        export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
        for d in base text weights tensor ir model flow; do
            for b in "$S"/tests/$d/test_*; do
                [ -x "$b" ] && [ "${b%.d}" = "$b" ] && t "sanitized $d/$(basename "$b")" "$b"
            done
        done
        t "sanitized vectors" "$S/tests/run/test_vectors" gemma3-1b dsv3 llada2-base llama3 mlx-dsv3-4bit gguf-llama-q8_0
        for s in tests/app/test_*.sh; do
            t "sanitized app/$(basename "$s" .sh)" sh "$s" "$S/millrace"
        done
        unset ASAN_OPTIONS UBSAN_OPTIONS
    else
        echo "FAILED sanitized build"; tail -n 20 "$B/san.log"; failed=$((failed + 1))
    fi
    # Corpora of the fuzz targets, replayed.
    for f in tests/fuzz/fuzz_*.c; do
        n=$(basename "$f" .c)
        mkdir -p "$S/fuzz"
        if $CC -std=c11 -D_GNU_SOURCE -O1 -g -fsanitize=address,undefined -Iinclude -Isrc -o "$S/fuzz/$n" "$f" tests/fuzz/replay.c \
            "$S/libmillrace.a" $(pkg-config --libs libpcre2-8 libutf8proc) -lm -lpthread >"$log" 2>&1; then
            t "replay $n" "$S/fuzz/$n" "tests/fuzz/corpus/${n#fuzz_}"
        else
            echo "FAILED build of $n"; cat "$log"; failed=$((failed + 1))
        fi
    done
    # Arm, emulated: the checker at small sizes and a vector per family.
    if command -v qemu-aarch64 >/dev/null && command -v aarch64-linux-gnu-gcc >/dev/null; then
        A=$B/arm
        if make -j"$jobs" B="$A" CC=aarch64-linux-gnu-gcc TEXT=0 LDFLAGS=-static "$A/libmillrace.a" \
            "$A/tests/run/test_vectors" "$A/tests/backend/test_matmul" "$A/tests/backend/test_kernels" "$A/tests/backend/test_attention" "$A/tests/run/test_bits" >"$B/arm.log" 2>&1; then
            q="qemu-aarch64 -cpu max"
            t "arm kernels" $q "$A/tests/backend/test_kernels" --small
            t "arm attention" $q "$A/tests/backend/test_attention" --small
            t "arm matmul" $q "$A/tests/backend/test_matmul" --small
            t "arm vectors" $q "$A/tests/run/test_vectors" --quick gemma3-1b dsv3 llada2-base llama3
            t "arm bits" $q "$A/tests/run/test_bits"
        else
            echo "FAILED arm build"; tail -n 20 "$B/arm.log"; failed=$((failed + 1))
        fi
    else
        echo "skipped: qemu-aarch64 or aarch64-linux-gnu-gcc is not installed"
    fi
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
