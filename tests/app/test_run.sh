#!/bin/sh
# run on an autoregressive model: prompts, output, sampling, ends, statistics, interrupts.
. "$(dirname "$0")/lib.sh" "$1"

story="Once upon a time there was a"

# ---- the same call prints the same; nothing else does ----
go 0 run $G -p "$story" -n 24
keep default
is "nothing on stderr" [ ! -s "$err" ]
is "no escapes" no_escapes "$out"
is "the continuation only" [ "$(head -c 4 "$out")" != Once ]
go 0 run $G -p "$story" -n 24
is "the same call prints the same" same "$out" "$tmp/default"
go 0 run $G -p "$story" -n 24 --seed 0
is "--seed is 0" same "$out" "$tmp/default"
go 0 run $G -p "$story" -n 24 --precision fast
is "--precision is fast" same "$out" "$tmp/default"
go 0 run $G -p "$story" -n 24 --temperature 0.8 --top-p 0.95
is "sampling defaults are generation_config.json's" same "$out" "$tmp/default"
go 0 run $G -p "$story" -n 24 --seed 1
is "another seed prints another text" differ "$out" "$tmp/default"
for t in 1 3 16; do
    go 0 run $G -p "$story" -n 24 --threads $t
    is "$t threads" same "$out" "$tmp/default"
done
for cpu in c avx2 avx512 amx neon; do
    MILLRACE_CPU=$cpu "$M" run $G -p "$story" -n 24 >"$out" 2>"$err" </dev/null
    case $? in
    0) is "MILLRACE_CPU=$cpu" same "$out" "$tmp/default" ;;
    2) is "not on this CPU: $cpu" says $cpu ;;
    *) fail "MILLRACE_CPU=$cpu: $(cat "$err")" ;;
    esac
done
go 0 run $G -p "$story" -n 24 --stats
is "--stats leaves stdout alone" same "$out" "$tmp/default"
is "--stats gives tok/s" says "tok/s"
is "--stats: two plans" says "plans    2 compiled"
rows=$(get 'runs, \([0-9]*\) rows forwarded' "$err")
prompt=$(get 'prefill  \([0-9]*\) tokens' "$err")
is "--stats: rows forwarded" [ "$rows" = $((prompt + 23)) ]
is "--stats: KV bytes" [ "$(get 'KV \([0-9]*\),' "$err")" -gt 0 ]
is "--stats: weight bytes read" [ "$(get 'bytes read \([0-9]*\)' "$err")" -gt 1000000 ]

# ---- the prompt ----
printf '%s' "$story" >"$tmp/prompt"
for how in "-f $tmp/prompt" "--file=$tmp/prompt"; do
    # shellcheck disable=SC2086
    go 0 run $G $how -n 24
    is "$how" same "$out" "$tmp/default"
done
"$M" run $G -f - -n 24 <"$tmp/prompt" >"$out"
is "-f -" same "$out" "$tmp/default"
"$M" run $G -n 24 <"$tmp/prompt" >"$out"
is "stdin from a file" same "$out" "$tmp/default"
printf '%s' "$story" | "$M" run $G -n 24 >"$out"
is "stdin from a pipe" same "$out" "$tmp/default"
mkfifo "$tmp/pipe"
printf '%s' "$story" >"$tmp/pipe" &
go 0 run $G -f "$tmp/pipe" -n 24
wait
is "-f PIPE" same "$out" "$tmp/default"
go 0 tokenize $G -p "$story"
ids=$(tr -d '[] \n' <"$out")
go 0 run $G --ids "$ids" -n 24
is "--ids of the same text" same "$out" "$tmp/default"
printf '%s\n' "$story" >"$tmp/newline"
go 0 run $G -f "$tmp/newline" -n 24
is "text is raw: a newline counts" differ "$out" "$tmp/default"

# ---- greedy, against the reference ----
vector=tests/vectors/stories/gemma3-stories.json
greedy='"greedy": \[{[^[]*"ids": \[\([^]]*\)\], "output": \(\[[^]]*\]\)'
ids=$(sed "s/.*$greedy.*/\\1/" $vector | tr -d ' ')
sed "s/.*$greedy.*/\\2/" $vector >"$tmp/want"
go 0 run $G --ids "$ids" -n 60 --temperature 0 --precision exact --print-ids
is "greedy ids are the reference's" same "$out" "$tmp/want"
keep greedy
is "ids are JSON" valid_json "$out"
go 0 run $G --ids "$ids" -n 60 --top-k 1 --precision exact --print-ids
is "--top-k 1 is greedy" same "$out" "$tmp/greedy"
go 0 run $G --ids "$ids" -n 60 --min-p 1 --precision exact --print-ids
is "--min-p 1 is greedy" same "$out" "$tmp/greedy"
go 0 run $G --ids "$ids" -n 60 --temperature 0 --precision exact --print-ids --repeat-penalty 2
is "--repeat-penalty changes it" differ "$out" "$tmp/greedy"
go 0 run $G --ids "$ids" -n 60 --temperature 0 --precision native --print-ids
second=$(sed 's/\[[0-9]*, \([0-9]*\).*/\1/' "$tmp/greedy")
go 0 run $G --ids "$ids" -n 60 --temperature 0 --precision exact --print-ids --logit-bias "$second=-inf"
is "--logit-bias takes an id away" [ "$(grep -c "[[ ]$second[],]" "$out")" = 0 ]

# ---- ends ----
go 0 run $G --ids "$ids" -n 60 --temperature 0 --precision exact --print-ids --eos-id 4095,"$second" --json
is "one JSON document" valid_json "$out"
is "an end id ends it, and is given" grep -qE "\"ids\": \[[0-9]+, $second\]" "$out"
is "finish_reason stop" prints '"finish_reason": "stop"'
go 0 run $G --ids "$ids" -n 60 --temperature 0 --precision exact --json --eos-id "$second"
is "text in JSON" prints '"text": "'
text=$(get '"text": "\([^"]*\)"' "$out")
go 0 run $G --ids "$ids" -n 1 --temperature 0 --precision exact
is "an end id is no text" [ "$text" = "$(cat "$out")" ]
go 0 run $G --ids "$ids" -n 0
is "-n 0 prints nothing" [ "$(tr -d '\n' <"$out" | wc -c)" = 0 ]
go 0 run $G --ids "$ids" -n 0 --print-ids
is "-n 0 has no ids" [ "$(cat "$out")" = "[]" ]
n=$(echo "$ids" | tr ',' '\n' | wc -l)
go 0 run $G --ids "$ids" --ctx $((n + 9)) --eos-id 4095 --print-ids
is "until the context's end" [ "$(tr ',' '\n' <"$out" | wc -l)" = 9 ]
is "and says so" says "finish_reason: length"
go 0 run $G --ids "$ids" --ctx $((n + 9)) --eos-id 4095 --json
is "and in JSON" prints '"finish_reason": "length"'
is "JSON" valid_json "$out"
go 0 run $G --ids "$ids" --ctx "$n"
is "a full context has nothing to follow" says "finish_reason: length"
go 0 run $G --ids "$ids" -n 3 --ctx $((n + 9)) --json --eos-id 4095
is "-n is a length too" prints '"finish_reason": "length"'
is "but not the context's" [ ! -s "$err" ]
refused "$n" run $G --ids "$ids" --ctx $((n - 1))

# ---- stop strings ----
go 0 run $G -p "$story" -n 60 --temperature 0
keep text
word=$(tr -s ' \n' '\n\n' <"$tmp/text" | sed -n 5p)
for stops in "--stop $word" "--stop qzqz --stop $word --stop $word," "--stop=$word"; do
    # shellcheck disable=SC2086
    go 0 run $G -p "$story" -n 60 --temperature 0 $stops --json
    is "finish_reason stop" prints '"finish_reason": "stop"'
    # shellcheck disable=SC2086
    go 0 run $G -p "$story" -n 60 --temperature 0 $stops
    awk -v w="$word" 'BEGIN {RS = "\001"} {print substr($0, 1, index($0, w) - 1)}' "$tmp/text" >"$tmp/want"
    is "text before $word ($stops)" same "$out" "$tmp/want"
done
go 0 run $G -p "$story" -n 60 --temperature 0 --stop qzqz
is "a stop string that does not come" same "$out" "$tmp/text"
last=$(tr -d '\n' <"$tmp/text" | tail -c 3)
go 0 run $G -p "$story" -n 60 --temperature 0 --stop "${last}zz"
is "what might have become one is given at the end" same "$out" "$tmp/text"

# ---- trouble with the output ----
if [ -w /dev/full ]; then
    "$M" run $G -p "$story" -n 24 </dev/null >/dev/full 2>"$err"
    is "a failed write is exit 1" [ $? = 1 ]
    is "and is said" says "stdout"
    "$M" run $G -p "$story" -n 24 --print-ids </dev/null >/dev/full 2>"$err"
    is "a failed write at the end is exit 1" [ $? = 1 ]
    "$M" run --help >/dev/full 2>"$err"
    is "help that cannot be written" [ $? = 1 ]
fi
{
    "$M" run $G -p "$story" -n 400 --eos-id 4095 </dev/null 2>"$err"
    echo $? >"$tmp/code"
} | head -c 5 >/dev/null
is "a closed pipe ends with 0" [ "$(cat "$tmp/code")" = 0 ]
is "and quietly" [ ! -s "$err" ]

# ---- the end, where only the tokenizer says it ----
mkdir "$tmp/unsaid"
for f in $G/*; do ln -s "$PWD/$f" "$tmp/unsaid/"; done
rm "$tmp/unsaid/config.json" "$tmp/unsaid/generation_config.json" "$tmp/unsaid/tokenizer_config.json"
sed 's/"eos_token_id": 1,//' $G/config.json >"$tmp/unsaid/config.json"
sed 's/"eos_token": "<|eos|>"/"eos_token": ","/' $G/tokenizer_config.json >"$tmp/unsaid/tokenizer_config.json"
go 0 tokenize $G -p , --no-special
stop=$(tr -d '[] \n' <"$out")
go 0 run $G -p "$story" -n 99 --json --temperature 0 --eos-id "$stop"
is "the model stops there" prints '"finish_reason": "stop"'
ids=$(get '"ids": \(\[[^]]*\]\)' "$out")
go 0 run "$tmp/unsaid" -p "$story" -n 99 --json
is "finish_reason stop" prints '"finish_reason": "stop"'
is "the tokenizer's end id counts" prints "$ids"
go 0 run "$tmp/unsaid" -p "$story" -n 99 --json --eos-id 4095
is "unless one is given" prints '"finish_reason": "length"'
rm "$tmp/unsaid/tokenizer.json" "$tmp/unsaid/tokenizer_config.json"
go 0 run "$tmp/unsaid" --ids 2,5,9 -n 4 --print-ids
: >"$tmp/unsaid/tokenizer.json"
refused "tokenizer.json" run "$tmp/unsaid" --ids 2,5,9 -n 4 --print-ids

# ---- interrupt ----
# The signal comes after $1 seconds, or once there is text.  Before generation begins it is the system's own end: no output.
interrupt() {
    : >"$out" # else what lies there may be seen before it is emptied
    wait=$1
    shift
    "$M" run $G -p "$story" --eos-id 4095 --threads 1 "$@" </dev/null >"$out" 2>"$err" &
    pid=$!
    for i in 1 2 3 4 5 6 7 8; do
        [ -s "$out" ] && break
        sleep "$wait"
    done
    kill -INT $pid
    wait $pid
    code=$?
}
for how in "" "--print-ids" "--json"; do
    for tenths in 0.05 0.1 0.2 0.4 0.02; do
        # shellcheck disable=SC2086
        interrupt $tenths $how
        [ -s "$out" ] && ! says "finish_reason: length" && break
    done
    is "interrupted: exit 130 ($code) $how" [ $code = 130 ]
    is "what there is is given $how" [ -s "$out" ]
    [ "$how" ] && is "as JSON $how" valid_json "$out"
done
is "JSON says cancelled" prints '"finish_reason": "cancelled"'
go 0 run $G -p "$story" --eos-id 4095 --print-ids
keep whole
interrupt 0.1 --print-ids
is "the ids are the first of all" [ "$(tr -d ']\n' <"$out")" = "$(head -c $(($(wc -c <"$out") - 2)) "$tmp/whole")" ]

# ---- flags of other models ----
usage "block length" run $G -p x -n 1 --block-length 8
usage "mask id" run $G -p x -n 1 --mask-id 3
for f in "--steps 4" "--threshold 0.5" "--minimal-topk 2" "--eos-early-stop" "--trace $tmp/t.json"; do
    # shellcheck disable=SC2086
    usage "${f%% *}" run $G -p x -n 1 $f
done
is "no trace was written" [ ! -e "$tmp/t.json" ]
finish
