#!/bin/sh
# Generates text with the three bundled models, one of each kind.  Usage: tools/demo.sh MILLRACE
set -eu
m=$1
show() {
    dir=$1 prompt=$2
    shift 2
    echo
    echo "== models/$dir"
    printf '%s' "$prompt"
    "$m" run "models/$dir" -p "$prompt" --stats "$@" 2>"${TMPDIR:-/tmp}/millrace-demo.$$" || { cat "${TMPDIR:-/tmp}/millrace-demo.$$" >&2; exit 1; }
    echo
    grep -E '^(prefill|decode)' "${TMPDIR:-/tmp}/millrace-demo.$$"
    rm -f "${TMPDIR:-/tmp}/millrace-demo.$$"
}
show gemma3-stories "Once upon a time there was a" -n 80 --temperature 0.8 --top-p 0.95 --seed 3
show deepseek-v3-stories "The King and the Queen" -n 80 --temperature 0.8 --top-p 0.95 --seed 5
show llada2-stories "In the middle of the garden there was" -n 64 --temperature 0.8 --seed 2
