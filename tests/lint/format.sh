#!/bin/sh
# Source format: clang-format 14 with the .clang-format of this tree.
set -u
cd "$(dirname "$0")/../.."
command -v clang-format-14 >/dev/null || { echo "skipped: clang-format-14 is not installed"; exit 0; }
bad=0
for f in $(git ls-files '*.c' '*.h' 2>/dev/null || find . -name '*.[ch]' -not -path './build*'); do
    [ -f "$f" ] || continue
    clang-format-14 --dry-run -Werror "$f" >/dev/null 2>&1 || { echo "$f: not formatted (clang-format-14 -i $f)"; bad=1; }
done
exit $bad
