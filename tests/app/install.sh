#!/bin/sh
# make install into a folder of its own; the example against what is there, shared and static.
# Usage: tests/app/install.sh BUILD
set -u
B=$(realpath "$1")
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
out=$tmp/out
is() {
    what=$1
    shift
    if "$@" >"$out" 2>&1; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAILED install: $what"
        cat "$out"
    fi
}
prefix=/opt/millrace
root=$tmp/root
is "make install" make --no-print-directory B="$B" DESTDIR="$root" PREFIX=$prefix install
at=$root$prefix
for f in bin/millrace include/millrace.h lib/libmillrace.a lib/libmillrace.so lib/pkgconfig/millrace.pc; do
    is "$f is installed" [ -e "$at/$f" ]
done
is "nothing else" [ "$(find "$root" -type f | wc -l)" = 5 ]
is "the program runs from there" "$at/bin/millrace" run models/gemma3-stories --ids 2,356 -n 2
is "the prefix is the one it will have" grep -qx "prefix=$prefix" "$at/lib/pkgconfig/millrace.pc"

# pkg-config as a user would call it, the prefix moved to where the files are for now.
pc() {
    PKG_CONFIG_PATH=$at/lib/pkgconfig:${PKG_CONFIG_PATH:-} ${PKG_CONFIG:-pkg-config} --define-variable=prefix="$at" "$@" millrace
}
cc=${CC:-gcc}
version=$("$at/bin/millrace" --version)
is "version of the package" [ "$(pc --modversion)" = "$version" ]
for std in c99 c11 gnu11; do
    # shellcheck disable=SC2046
    is "the header is $std" $cc -std=$std -Wall -Wextra -Werror -fsyntax-only $(pc --cflags) examples/generate.c
done
if command -v "${CXX:-g++}" >/dev/null; then
    echo '#include <millrace.h>
int main() { return mr_version()[0] == 0; }' >"$tmp/plus.cc"
    # shellcheck disable=SC2046
    is "and C++" "${CXX:-g++}" -Wall -Wextra -Werror "$tmp/plus.cc" $(pc --cflags --libs) -o "$tmp/plus"
fi
# shellcheck disable=SC2046
is "shared" $cc -Wall -Wextra -Werror examples/generate.c $(pc --cflags --libs) -o "$tmp/shared"
# shellcheck disable=SC2046
is "static" $cc -Wall -Wextra -Werror examples/generate.c $(pc --cflags) "$at/lib/libmillrace.a" $(pc --libs --static | sed 's/-lmillrace//') -o "$tmp/static"
run_shared() { LD_LIBRARY_PATH=$at/lib "$tmp/shared" "$@"; }
is "shared runs" run_shared models/gemma3-stories "Once upon a time"
cp "$out" "$tmp/text"
is "static runs" "$tmp/static" models/gemma3-stories "Once upon a time"
cp "$out" "$tmp/static.text"
is "and says the same" cmp "$tmp/static.text" "$tmp/text"
is "which is something" [ "$(wc -c <"$tmp/text")" -gt 40 ]
is "as the program does" sh -c "'$at/bin/millrace' run models/gemma3-stories -p 'Once upon a time' -n 40 --temperature 0 | cmp - '$tmp/text'"
is "ids" "$tmp/static" models/gemma3-stories --ids 2,356,2880
is "forty of them" [ "$(wc -l <"$out")" = 40 ]
"$tmp/static" models/nowhere x >"$out" 2>&1
is "a missing model is exit 1" [ $? = 1 ]
# Only the public names leave the shared library.
is "exported names" sh -c "! nm -D --defined-only '$at/lib/libmillrace.so' | awk '{print \$3}' | grep -v '^mr_'"
nm -D --defined-only "$at/lib/libmillrace.so" | awk '$2 == "T" {print $3}' | sort >"$tmp/names"
grep -o 'mr_[a-z_]*(' include/millrace.h | tr -d '(' | sort -u >"$tmp/declared"
is "are those of the header" sh -c "comm -23 '$tmp/names' '$tmp/declared' | { ! grep .; }"
echo "install: $passed passed, $failed failed"
[ $failed = 0 ]
