#!/bin/sh
# Who may include whom (docs/design.md), file names unique in the tree, public headers compile alone.
set -u
cd "$(dirname "$0")/../.."
bad=0
say() { echo "$1"; bad=$((bad + 1)); }

allowed() {
    case $1 in
    base) echo "base" ;;
    tensor) echo "tensor base" ;;
    ir) echo "ir base tensor" ;;
    flow) echo "flow base tensor ir" ;;
    weights) echo "weights base tensor" ;;
    backend) echo "backend base tensor ir" ;;
    compile) echo "compile base tensor ir backend/backend.h" ;;
    model) echo "model base tensor ir flow weights" ;;
    text) echo "text base" ;;
    run) echo "run base tensor ir flow weights backend compile model text millrace.h" ;;
    app) echo "base millrace.h app.h bench.h" ;;
    esac
}

for folder in base tensor ir flow weights backend compile model text run app; do
    dir=src/$folder
    [ $folder = app ] && dir=app
    ok=$(allowed $folder)
    grep -rHno '^#include "[^"]*"' "$dir" | sed 's/:[0-9]*:#include "/ /; s/"$//' >/tmp/includes.$$
    while read -r file inc; do
        top=${inc%%/*}
        good=0
        for a in $ok; do [ "$top" = "$a" ] || [ "$inc" = "$a" ] && good=1; done
        [ $good = 1 ] || say "$file: $folder may not include \"$inc\""
        case $file:$inc in
        src/backend/ref/*:backend/cpu/* | src/backend/cpu/*:backend/ref/*) say "$file: backends never include each other" ;;
        esac
    done </tmp/includes.$$
    rm -f /tmp/includes.$$
done

find src app include -name '*.[ch]' -printf '%f\n' | sort | uniq -d | while read -r f; do echo "file name $f is used twice"; done >/tmp/dups.$$
[ -s /tmp/dups.$$ ] && { cat /tmp/dups.$$; bad=$((bad + 1)); }
rm -f /tmp/dups.$$

grep -rnE '\b(exit|abort|printf|fprintf|puts|getenv)\(' src --include='*.c' | grep -vE 'snprintf|vsnprintf|assert|_printf\(|\* ' && say "src: nothing below app/ prints, exits or reads the environment"

for h in include/*.h; do
    for std in c11 gnu11; do
        echo "#include \"$h\"" | ${CC:-gcc} -std=$std -Wall -Wextra -Werror -fsyntax-only -I. -x c - || say "$h does not compile alone"
    done
done
[ $bad = 0 ]
