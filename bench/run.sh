#!/bin/sh
# The table of speeds: shapes made by synth, measured beside the machine's limits, and the peers if they are there.
#
#   bench/run.sh BUILD_DIR [ROW...]
#
# PEER=DIR      llama.cpp's programs (DIR/llama-bench or DIR/bin/llama-bench; tools/build_peer.sh makes them)
# IK=DIR        the same of ik_llama.cpp, which repacks weights when it loads them
# REPEAT=N      measured runs of each, the median counts (3)
# THREADS=N     for both (the CPUs there are)
# RECORD=1      adds what was measured to bench/results.csv
# Models are made under BUILD_DIR/bench, one at a time, and removed: 5 GB are needed.
set -u
cd "$(dirname "$0")/.." || exit 1
B=${1:?"usage: bench/run.sh BUILD_DIR [ROW...]"}
shift
M=$B/millrace dir=$B/bench r=${REPEAT:-3} t=${THREADS:-$(nproc)}
# program DIR: its llama-bench, or nothing where no DIR is given
program() {
    [ -z "$1" ] && return 0
    for p in "$1/bin/llama-bench" "$1/llama-bench"; do
        [ -x "$p" ] && { echo "$p"; return 0; }
    done
    echo "bench: no llama-bench in $1" >&2
    return 1
}
peer=$(program "${PEER:-}") && ik=$(program "${IK:-}") || exit 1
mkdir -p "$dir"
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
machine="${cpu:-$(uname -m)}, $t threads"
today=$(date +%F)

record() { # WHAT VALUE
    [ -n "${RECORD:-}" ] && [ -n "$2" ] && [ "$2" != - ] && echo "$today,\"$machine\",$1,$2" >>bench/results.csv
}
field() { sed -n "s/.*\"$1\": {\"tokens_per_s\": \([0-9.]*\).*/\1/p" "$dir/out"; }
share() { sed -n "s/.*\"$1\": {[^}]*\"share_of_limit\": \([0-9.]*\).*/\1/p" "$dir/out"; }
limit() { sed -n "s/.*\"$1\": {\"one_thread\": \([0-9.]*\), \"all_threads\": \([0-9.]*\).*/\1 \2/p" "$dir/out"; }
percent() { awk -v x="$1" 'BEGIN { if (x > 0) printf "%.0f %%", 100 * x; else printf "-" }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (a > 0 && b > 0) printf "%.2f", a / b; else printf "-" }'; }
wanted() { # ROW: none were named, or this one
    [ -z "$only" ] && return 0
    case " $only " in *" $1 "*) return 0 ;; esac
    return 1
}
only=$*

# make NAME CONFIG SYNTH-ARGS...: $dir/NAME
make_model() {
    name=$1 config=$2
    shift 2
    "$M" synth "bench/$config.json" "$dir/$name" "$@" >"$dir/log" 2>&1 || { cat "$dir/log" >&2; exit 1; }
}
# line NAME and for prefill and decode: OURS SHARE PEER RATIO IK RATIO
line() {
    printf '%-22s' "$1"
    shift
    while [ $# -gt 0 ]; do
        printf ' %9s %8s %9s %6s' "$1" "$2" "$3" "$4"
        [ -n "$ik" ] && printf ' %9s %6s' "$5" "$6"
        printf '  '
        shift 6
    done
    echo
}
# rate PROGRAM TEST MODEL ARGS...: tokens a second, or nothing
rate() {
    run=$1 test=$2 file=$3
    shift 3
    [ -n "$run" ] && [ "$file" != - ] || return 0
    "$run" -m "$file" -r "$r" -t "$t" "$@" >"$dir/peer" 2>"$dir/log" || tail -n 2 "$dir/log" >&2
    awk -F'|' -v test="$test" '$0 ~ test { print $(NF - 1) + 0 }' "$dir/peer"
}
# row NAME MODEL PEER_MODEL BENCH-ARGS...: a line of the table.  PEER_MODEL -: none of its kind.
row() {
    row=$1 model=$2 twin=$3
    shift 3
    "$M" bench "$model" --profile --json -r "$r" --threads "$t" "$@" >"$dir/out" 2>"$dir/log" ||
        { cat "$dir/log" >&2; exit 1; }
    p=$(field prefill) d=$(field decode) ps=$(share prefill) ds=$(share decode)
    pp=$(rate "$peer" pp512 "$twin" -p 512 -n 0) pd=$(rate "$peer" tg64 "$twin" -p 0 -n 64)
    kp=$(rate "$ik" pp512 "$twin" -p 512 -n 0 -rtr 1) kd=$(rate "$ik" tg64 "$twin" -p 0 -n 64 -rtr 1)
    line "$row" "${p:--}" "$(percent "${ps:-0}")" "${pp:--}" "$(ratio "${p:-0}" "${pp:-0}")" "${kp:--}" \
        "$(ratio "${p:-0}" "${kp:-0}")" "${d:--}" "$(percent "${ds:-0}")" "${pd:--}" \
        "$(ratio "${d:-0}" "${pd:-0}")" "${kd:--}" "$(ratio "${d:-0}" "${kd:-0}")"
    record "$row prefill tok/s" "$p"
    record "$row decode tok/s" "$d"
    record "$row prefill share of limit" "$ps"
    record "$row decode share of limit" "$ds"
    record "$row prefill llama.cpp tok/s" "$pp"
    record "$row decode llama.cpp tok/s" "$pd"
    record "$row prefill ik_llama.cpp tok/s" "$kp"
    record "$row decode ik_llama.cpp tok/s" "$kd"
}
limits() {
    for l in read_gb_per_s int8_gop_per_s f32_gflop_per_s; do
        # shellcheck disable=SC2046
        set -- $(limit $l)
        echo "$l: $1 with one thread, $2 with $t"
        record "$l one thread" "$1"
        record "$l all threads" "$2"
    done
}
# pair NAME CONFIG QUANT GROUP GGUF_QUANT: an MLX-affine model beside a GGUF twin of the same bits a weight.
pair() {
    wanted "$1" || return 0
    make_model m "$2" --quant "$3" --group "$4"
    twin=-
    [ -n "$peer$ik" ] && make_model twin.gguf "$2" --format gguf --quant "$5" && twin=$dir/twin.gguf
    row "$1" "$dir/m" "$twin"
    rm -rf "$dir/m" "$dir/twin.gguf"
}
# gguf NAME CONFIG QUANT: both run the very same file.
gguf() {
    wanted "$1" || return 0
    make_model m.gguf "$2" --format gguf --quant "$3"
    row "$1" "$dir/m.gguf" "$dir/m.gguf"
    rm -f "$dir/m.gguf"
}

echo "$today, $machine, median of $r"
make_model m smollm2-135m --quant q8
"$M" bench "$dir/m" --profile --json -p 8 -n 1 -r 1 --threads "$t" >"$dir/out" || exit 1
rm -rf "$dir/m"
limits
[ -n "$peer" ] || echo "llama.cpp: not there (give PEER=DIR; tools/build_peer.sh DIR builds it)"
[ -n "$ik" ] || echo "ik_llama.cpp: not there (give IK=DIR; tools/build_peer.sh DIR ik builds it)"
echo
line "" prefill "of limit" llama.cpp ratio ik ratio decode "of limit" llama.cpp ratio ik ratio
pair gemma3-1b-q4-g64 gemma3-1b q4 64 q4_0
pair gemma3-1b-q4-g32 gemma3-1b q4 32 q4_1
pair gemma3-1b-q8-g64 gemma3-1b q8 64 q8_0
pair gemma3-1b-bf16 gemma3-1b bf16 64 bf16
gguf gemma3-1b-Q4_0 gemma3-1b q4_0
gguf gemma3-1b-Q8_0 gemma3-1b q8_0
gguf smollm2-Q4_1 smollm2-135m q4_1
pair llama-1b-q4-g64 llama-1b q4 64 q4_0
gguf llama-1b-Q4_K llama-1b q4_k
gguf llama-1b-Q6_K llama-1b q6_k
pair moe-128x8-q4-g64 moe-128x8 q4 64 q4_0
pair dsv2-lite-6-q4-g64 deepseek-v2-lite-6 q4 64 q4_0
if wanted llada2-block; then
    make_model m llada2-mini-8 --quant q4
    row llada2-block "$dir/m" - -p 0 -n 32 --depth 96
    rm -rf "$dir/m"
fi
if wanted batch || wanted 8k || wanted start; then
    make_model m gemma3-1b --quant q4
    wanted batch && row gemma3-1b-batch-8 "$dir/m" - -p 0 -n 32 --batch 8
    wanted 8k && r=1 && row gemma3-1b-8k-native "$dir/m" - -p 8192 -n 32 --depth 8192 --precision native
    wanted 8k && row gemma3-1b-8k "$dir/m" - -p 8192 -n 32 --depth 8192
    echo
    wanted start && {
        rss=$(sed -n 's/.*"resident_bytes": \([0-9]*\), "planned_bytes": \([0-9]*\).*/\1 \2/p' "$dir/out" |
            awk '$2 > 0 { printf "%.3f", $1 / $2 }')
        ms() { # COMMAND...: milliseconds
            a=$(date +%s%N)
            "$@" >/dev/null 2>&1
            echo $((($(date +%s%N) - a) / 1000000))
        }
        ms "$M" --version >/dev/null
        v=$(ms "$M" --version) first=$(ms "$M" run "$dir/m" --ids 1,2,3 -n 1 --threads "$t")
        echo "millrace --version: $v ms; first token of gemma3-1b-q4-g64, page cache warm: $first ms"
        echo "resident memory of the last run: ${rss:--} of what was planned"
        record "version ms" "$v"
        record "first token ms" "$first"
        record "resident of planned" "$rss"
    }
    rm -rf "$dir/m"
fi
real=${XDG_CACHE_HOME:-$HOME/.cache}/millrace/SmolLM2-135M-Instruct.Q4_1.gguf
if wanted smollm2-real; then
    if [ -f "$real" ]; then row smollm2-real "$real" "$real"; else echo "smollm2-real: skipped (make fetch gets it)"; fi
fi
exit 0
