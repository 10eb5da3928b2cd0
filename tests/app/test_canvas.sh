#!/bin/sh
# run, logits and graph on a model that denoises canvases.
. "$(dirname "$0")/lib.sh" "$1"
C=tests/vectors/diffusion-gemma

list() { sed "s/.*\"$1\": \[\([^]]*\)\].*/\1/" $C/case.json | tr -d ' '; }
ids=$(list ids)
printf '[%s]' "$(list canvas)" >"$tmp/canvas.json"
printf '[%s]' "$(list canvas2)" >"$tmp/canvas2.json"
first=$(sed 's/.*"prompt": \[\(137[^]]*\)\].*/\1/' $C/trace.json | tr -d ' ')

# ---- logits ----
go 0 logits $C --ids "$ids" --canvas-file "$tmp/canvas.json" --out "$tmp/l.npy"
is "rows of the canvas, not of the ids" grep -qa "(16, 272)" "$tmp/l.npy"
for how in "--chunk 5" "--threads 1" "--no-pass moe"; do
    # shellcheck disable=SC2086
    go 0 logits $C --ids "$ids" --canvas-file "$tmp/canvas.json" --out "$tmp/l2.npy" $how
    is "logits $how" same "$tmp/l.npy" "$tmp/l2.npy"
done
go 0 logits $C --ids "$ids" --canvas-file "$tmp/canvas2.json" --out "$tmp/none.npy"
go 0 logits $C --ids "$ids" --canvas-file "$tmp/canvas2.json" --feedback $C/logits.npy --out "$tmp/hot.npy"
go 0 logits $C --ids "$ids" --canvas-file "$tmp/canvas2.json" --feedback $C/logits.npy --feedback-temperature 0.8 --out "$tmp/fed.npy"
is "what is fed back counts" differ "$tmp/none.npy" "$tmp/fed.npy"
is "so does its temperature" differ "$tmp/hot.npy" "$tmp/fed.npy"
go 0 logits $C --ids "$ids" --canvas-file "$tmp/canvas.json" --image-spans 3-9 --out "$tmp/span.npy"
is "an image's rows see each other" differ "$tmp/l.npy" "$tmp/span.npy"
usage "--canvas-file is needed" logits $C --ids 1,2 --out "$tmp/x.npy"
usage "has no canvas" logits $G --ids 1,2 --canvas-file "$tmp/canvas.json" --out "$tmp/x.npy"
usage "--feedback needs" logits $C --ids 1,2 --feedback $C/logits.npy --out "$tmp/x.npy"
echo "[1, 2, 3]" >"$tmp/short.json"
usage "3 ids, a canvas has 16" logits $C --ids 1,2 --canvas-file "$tmp/short.json" --out "$tmp/x.npy"
sed 's/^\[[0-9]*/[272/' "$tmp/canvas.json" >"$tmp/outside.json"
refused "id 272" logits $C --ids 1,2 --canvas-file "$tmp/outside.json" --out "$tmp/x.npy"
refused "logits_sc" logits $C --ids 1,2 --canvas-file "$tmp/canvas.json" --feedback "$tmp/logits_sc.npy" --out "$tmp/x.npy"
is "nothing was written" [ ! -e "$tmp/x.npy" ]

# ---- generation ----
go 0 run $C --ids "$ids" -n 20 --print-ids --steps 6
is "whole canvases" [ "$(tr ',' '\n' <"$out" | wc -l)" = 32 ]
keep ids
for how in "--seed 0" "--temperature 0" "--threads 1" "--no-pass qkv" "--decoder canvas" "-n 17" \
    "--t-min 0.4 --t-max 0.8 --entropy-bound 0.1 --stability-threshold 1 --confidence-threshold 0.005"; do
    # shellcheck disable=SC2086
    go 0 run $C --ids "$ids" -n 20 --print-ids --steps 6 $how
    is "$how: the same ids" same "$out" "$tmp/ids"
done
for how in "--seed 5" "--temperature 1" "--steps 3" "--t-max 8" "--entropy-bound 9"; do
    # shellcheck disable=SC2086
    go 0 run $C --ids "$ids" -n 20 --print-ids --steps 6 $how
    is "$how: other ids" differ "$out" "$tmp/ids"
done
go 0 run $C --ids "$ids" -n 0 --print-ids
is "none" [ "$(cat "$out")" = "[]" ]
third=$(sed 's/^\[[0-9]*, [0-9]*, \([0-9]*\),.*/\1/' "$tmp/ids")
go 0 run $C --ids "$ids" -n 40 --print-ids --steps 6 --eos-id "$third"
is "an end id ends it" grep -qE "$third\]$" "$out"
go 0 run $C --ids "$ids" --ctx 60 --print-ids --steps 2
is "as many canvases as fit" [ "$(tr ',' '\n' <"$out" | wc -l)" = 32 ]
is "and says so" says "context of 60"
refused "a canvas of 16 ids" run $C --ids "$ids" --ctx 40 --print-ids
go 0 run $C --ids "$ids" -n 16 --print-ids --stats
is "three plans" says "plans    3 compiled"

# ---- draws and traces ----
go 0 run $C --ids "$first" -n 20 --steps 24 --draws $C/trace.json --print-ids --precision exact --trace "$tmp/t.json"
keep drawn
want=$(grep -o '"sequence": \[[^]]*' $C/trace.json | head -n 1 | cut -d, -f28- | tr -d ' ')
is "recorded draws give the recorded ids" [ "$(tr -d '[] \n' <"$out")" = "$want" ]
is "the trace is JSON" valid_json "$tmp/t.json"
go 0 run $C --ids "$first" -n 20 --steps 24 --draws "$tmp/t.json" --print-ids --precision exact --trace "$tmp/t2.json"
is "a trace's draws give it again" same "$out" "$tmp/drawn"
is "trace and all" same "$tmp/t.json" "$tmp/t2.json"
refused "no run has this prompt" run $C --ids 1,2,3 -n 4 --draws $C/trace.json
refused "nothing is recorded" run $C --ids "$first" -n 40 --print-ids --draws $C/trace.json --steps 24
refused "t.jsn" run $C --ids 1 --draws "$tmp/t.jsn"
sed 's/"noise": \[[0-9]*/"noise": [-1/' "$tmp/t.json" >"$tmp/bad.json"
refused "noise" run $C --ids "$first" -n 4 --draws "$tmp/bad.json"
sed 's/"noise": \[[0-9]*/"noise": [272/' "$tmp/t.json" >"$tmp/bad.json"
refused "272" run $C --ids "$first" -n 4 --print-ids --draws "$tmp/bad.json"
sed 's/"canvas": \[[0-9]*, /"canvas": [/' "$tmp/t.json" >"$tmp/bad.json"
go 1 run $C --ids "$first" -n 4 --draws "$tmp/bad.json"
echo '{"blocks": [{"canvas": [1], "steps": []}]}' >"$tmp/bad.json"
usage "canvases of 1 ids" run $C --ids "$first" -n 4 --draws "$tmp/bad.json"
usage "--draws needs --ids" run $C -p x --draws "$tmp/t.json"

# ---- flags ----
usage "neither 0 nor 1" run $C --ids 1 -n 4 --temperature 0.5
usage "top_k" run $C --ids 1 -n 4 --top-k 4
usage "--mask-id" run $C --ids 1 -n 4 --mask-id 3
usage "--repeat-penalty" run $C --ids 1 -n 4 --repeat-penalty 1.1
usage "t_min 0.9 is above" run $C --ids 1 -n 4 --t-min 0.9
usage "threshold does not apply to the decoder canvas" run $C --ids 1 -n 4 --threshold 0.5
usage "denoises canvases" run $C --ids 1 -n 4 --decoder llada2.0
usage "has no canvas" run $L -p x -n 4 --decoder canvas
usage "entropy_bound does not apply" run $L -p x -n 4 --entropy-bound 1
usage "--t-min does not apply" run $G -p x -n 4 --t-min 1
usage "--draws does not apply" run $L --ids 1 -n 4 --draws "$tmp/t.json"
usage "of canvases alone" bench $C -p 4 -n 4

# ---- looking ----
go 0 graph $C --plan canvas
is "the second graph" prints "mix("
go 0 graph $C
is "is not in the first" [ "$(grep -c 'mix(' "$out")" = 0 ]
go 0 graph $C --plan canvas --stage plan
usage "has no canvas" graph $G --plan canvas
go 0 inspect $C
for m in tests/vectors/diffusion-gemma tests/vectors/diffusion-gemma-own; do
    sed 's/.*"canvas": \(\[[^]]*\]\).*/\1/' $m/case.json >"$tmp/canvas.json"
    go 0 convert $m "$tmp/form" --quant f32 --force
    for d in $m "$tmp/form"; do
        go 0 logits $d --ids 3,1,4,1,5 --canvas-file "$tmp/canvas.json" --precision exact --out "$tmp/$(basename $d).npy"
    done
    is "converted: the same bytes: $m" same "$tmp/$(basename $m).npy" "$tmp/form.npy"
done
mkdir "$tmp/synth"
go 0 synth $C/config.json "$tmp/synth/model"
go 0 run "$tmp/synth/model" --ids 1,2,3 -n 4 --print-ids
finish
