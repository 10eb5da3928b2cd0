# What the tests of the program share.  Sourced, with the path of the millrace binary as $1; ends with `finish`.
# No Python: documents are checked by the program's own strict reader, bytes by cmp and od.
set -u
M=$(realpath "$1")
cd "$(dirname "$0")/../.." || exit 1
name=$(basename "$0" .sh)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
out=$tmp/out err=$tmp/err
passed=0 failed=0
unset MILLRACE_CPU
G=models/gemma3-stories D=models/deepseek-v3-stories L=models/llada2-stories

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    echo "FAILED $name: $*"
}
# is WHAT COMMAND...: the command must succeed.
is() {
    what=$1
    shift
    if "$@"; then pass; else fail "$what"; fi
}
# go CODE ARGS...: runs millrace with stdin empty; stdout and stderr in $out and $err.
go() {
    want=$1
    shift
    "$M" "$@" </dev/null >"$out" 2>"$err"
    code=$?
    if [ $code = "$want" ]; then pass; else
        fail "exit $code, expected $want: millrace $*"
        head -n 5 "$err"
    fi
}
lines() { [ "$(wc -l <"$1")" -ge "$2" ] && [ "$(wc -l <"$1")" -le "$3" ]; }
# usage TEXT ARGS...: exit 2, nothing on stdout, a line on stderr that holds TEXT.
usage() {
    text=$1
    shift
    go 2 "$@"
    is "stdout is empty: millrace $*" [ ! -s "$out" ]
    is "stderr says $text: millrace $*: $(head -n 1 "$err")" says "$text"
}
# refused TEXT ARGS...: exit 1, nothing on stdout, at most three lines on stderr that hold TEXT.
refused() {
    text=$1
    shift
    go 1 "$@"
    is "stdout is empty: millrace $*" [ ! -s "$out" ]
    is "one to three lines: millrace $*" lines "$err" 1 3
    is "stderr says $text: millrace $*: $(head -n 1 "$err")" says "$text"
}
says() { grep -qF -e "$1" "$err"; }
prints() { grep -qF -e "$1" "$out"; }
same() { cmp -s "$1" "$2"; }
differ() { ! cmp -s "$1" "$2"; }
keep() { cp "$out" "$tmp/$1"; }
no_escapes() { ! LC_ALL=C grep -q "$(printf '\033')" "$1"; }
# The strict reader takes FILE as a value: in a list where strings are wanted it names the value, not a syntax error.
valid_json() {
    { printf '[{"x": '; cat "$1"; printf '}]'; } >"$tmp/valid.json"
    "$M" tokenize $G --lines "$tmp/valid.json" >/dev/null 2>"$tmp/valid.err"
    grep -qF '"[0]"' "$tmp/valid.err"
}
# One line of the first capture of a sed pattern.
get() { sed -n "s/.*$1.*/\\1/p" "$2" | head -n 1; }
finish() {
    echo "$name: $passed passed, $failed failed"
    [ $failed = 0 ]
    exit $?
}
