#!/bin/sh
# Commands, help, version and wrong usage.
. "$(dirname "$0")/lib.sh" "$1"

commands="run logits perplexity tokenize inspect graph bench synth"

# ---- help ----
go 0 --help
is "no escapes" no_escapes "$out"
is "nothing on stderr" [ ! -s "$err" ]
for c in $commands; do
    is "help names $c" grep -q "^  $c " "$out"
done
flags_of() {
    case $1 in
    run) echo "-p -f --ids -n --temperature --top-k --top-p --min-p --repeat-penalty --seed --stop --threads --ctx" \
        "--precision --load-state --save-state --print-ids --json --stats --block-length --steps --threshold --minimal-topk --eos-early-stop" \
        "--decoder --editing-threshold --max-post-steps --num-to-transfer --max-steps-per-block --low-threshold" \
        "--credit-alpha --credit-gamma --credit-decay --t-min --t-max --entropy-bound --stability-threshold" \
        "--confidence-threshold --draws" \
        "--trace --mask-id --eos-id --chat --messages --logit-bias --no-pass" ;;
    logits) echo "--ids --ids-file --out --precision --chunk --threads --block-length --graph --no-pass" ;;
    perplexity) echo "-f --ids-file --ctx --against --json --precision --threads --no-pass" ;;
    tokenize) echo "-p -f --decode --ids --lines --messages --no-special --no-parse-special" ;;
    inspect) echo "--json --ctx" ;;
    graph) echo "--plan --stage --format --report --block-length --precision --threads --no-pass" ;;
    bench) echo "-p -n -r --batch --depth --profile --json --threads --precision --block-length --no-pass" ;;
    synth) echo "--format --quant --group --seed" ;;
    esac
}
for c in $commands; do
    for how in "$c --help" "$c -h" "$c MODEL --bogus --help" "$c --help -n"; do
        # shellcheck disable=SC2086
        go 0 $how
        is "help of $c: $how" grep -q "^usage: millrace $c " "$out"
    done
    is "no escapes" no_escapes "$out"
    for f in $(flags_of $c) --help; do
        is "help of $c names $f" grep -qE -e "^  (-., )?$f( |\$)|^  $f, " "$out"
    done
done
# Every flag the help shows is taken: with a value if it has one.
for c in $commands; do
    "$M" $c --help >"$tmp/help"
    sed -n 's/^  \(-., \)\{0,1\}\(--[a-z-]*\)\( [A-Z][^ ]*\)\{0,1\} .*/\2\3/p' "$tmp/help" | sort -u >"$tmp/flags"
    while read -r flag arg; do
        [ "$flag" = --help ] && continue
        [ -n "$arg" ] || continue
        usage "$flag" $c "$flag"
    done <"$tmp/flags"
done

# ---- version ----
go 0 --version
is "a version alone" grep -qE '^[0-9]+\.[0-9]+\.[0-9]+$' "$out"
is "one line" lines "$out" 1 1
is "nothing on stderr" [ ! -s "$err" ]

# ---- wrong usage ----
usage "no command"
usage "bogus" bogus
usage "bogus" bogus $G
usage "--bogus" --bogus
for c in $commands; do
    usage "needs" $c
    usage "--bogus" $c --bogus # said before the missing model is
    usage "--bogus" $c $G --bogus
    usage "--bogus" $c $G --bogus=3
done
usage "unexpected" run $G another -p x
usage "needs CONFIG OUT" synth $G/config.json
for c in run logits perplexity bench; do
    for v in 0 1025 -1 x 1.5 "" 99999999999999999999; do
        usage "--threads" $c $G --threads "$v"
    done
done
echo '[1, 2, 3]' >"$tmp/ids"
usage "quick" run $G -p x --precision quick
usage "quick" logits $G --ids 1 --out "$tmp/x.npy" --precision quick
usage "quick" perplexity $G --ids-file "$tmp/ids" --precision quick
usage "quick" bench $G --precision quick
usage "quick" graph $G --precision quick
usage "--n" run $G -p x -n -3
usage "--n" run $G -p x -n ten
usage "--temperature" run $G -p x --temperature -0.5
usage "--temperature" run $G -p x --temperature nan
usage "--top-p" run $G -p x --top-p 0
usage "--top-p" run $G -p x --top-p 1.01
usage "--top-k" run $G -p x --top-k -1
usage "--min-p" run $G -p x --min-p 2
usage "--repeat-penalty" run $G -p x --repeat-penalty 0
usage "--seed" run $G -p x --seed -1
usage "--ctx" run $G -p x --ctx 0
usage "--logit-bias" run $G -p x --logit-bias 5
usage "--logit-bias" run $G -p x --logit-bias 5=y
usage "stop" run $G -p x --stop ""
usage "--ids" run $G --ids 1,x
usage "--ids" run $G --ids 1,,2
usage "exclude" run $G -p x -f y
usage "exclude" run $G -p x --ids 1
usage "--chat" run $G --ids 1 --chat
usage "exclude" run $G -p x --messages y
usage "--messages" tokenize $G -p x --messages y
usage "special" tokenize $G --messages y --no-special
usage "special" tokenize $G --messages y --no-parse-special
usage "--decode" tokenize $G --decode --ids 1 --no-parse-special
usage "--chat and --messages" run $G --chat --messages y
usage "--print-ids" run $G -p x --print-ids=1
usage "--out" logits $G --ids 1
usage "--ids" logits $G --out "$tmp/x.npy"
usage "--ids" logits $G --out "$tmp/x.npy" --ids 1 --ids-file x
for v in 0 -1 x; do
    usage "--chunk" logits $G --ids 1 --out "$tmp/x.npy" --chunk $v
done
usage "no pass" logits $G --ids 1 --out "$tmp/x.npy" --no-pass bogus
usage "--ids" tokenize $G --decode
usage "--decode" tokenize $G --ids 1
usage "--lines" tokenize $G --lines x -p y
usage "--decode" tokenize $G --decode --ids 1 -p y
usage "--lines" tokenize $G --decode --ids 1 --lines x
usage "-f" perplexity $G
usage "-f" perplexity $G -f x --ids-file y
usage "quick" perplexity $G --ids-file "$tmp/ids" --against quick
usage "plan" graph $G --plan middle
usage "stage" graph $G --stage last
usage "format" graph $G --format pdf
usage "no pass" graph $G --no-pass bogus
usage "quant" synth $G/config.json "$tmp/s" --quant q3
usage "format" synth $G/config.json "$tmp/s" --format onnx
usage "quant" synth $G/config.json "$tmp/s" --format gguf --quant q3
usage "group" synth $G/config.json "$tmp/s" --group 48
usage "--repeat" bench $G --repeat 0
usage "--batch" bench $G --batch 0
usage "--batch" bench $G --batch 1025
usage "--depth" bench $G --depth -1
is "nothing was made" [ ! -e "$tmp/s" ]
is "nothing was written" [ ! -e "$tmp/x.npy" ]
MILLRACE_CPU=mmx
export MILLRACE_CPU
usage "mmx" run $G --ids 1 -n 1
unset MILLRACE_CPU
# A value is a value, whatever it looks like.
go 0 run $G -p --help -n 1
is "--help was the prompt" [ "$(wc -l <"$out")" -le 2 ]
go 0 run $G --prompt=-x -n 1
go 0 run -n 1 -p x -- $G
finish
