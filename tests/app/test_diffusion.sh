#!/bin/sh
# run and logits on a block-diffusion model.
. "$(dirname "$0")/lib.sh" "$1"

story="In the middle of the garden there was"
no_end="--eos-id 4095"

# ---- generation ----
go 0 run $L -p "$story" -n 30
keep default
is "nothing on stderr" [ ! -s "$err" ]
for how in "--seed 0 --temperature 0 --steps 32 --threshold 0.95 --minimal-topk 1 --block-length 32 --mask-id 3 --eos-id 1" \
    "--threads 3 --stats"; do
    # shellcheck disable=SC2086
    go 0 run $L -p "$story" -n 30 $how
    is "$how is no other text" same "$out" "$tmp/default"
done
is "--stats: denoising steps" says "denoising steps"
is "--stats: two plans" says "plans    2 compiled"
for how in "--steps 2" "--threshold 0.1" "--block-length 8" "--minimal-topk 20"; do
    # shellcheck disable=SC2086
    go 0 run $L -p "$story" -n 30 $how
    is "$how is another text" differ "$out" "$tmp/default"
done
go 0 run $L -p "$story" -n 8 --temperature 1 --seed 3
keep sampled
go 0 run $L -p "$story" -n 8 --temperature 1 --seed 3 --threads 1 --no-pass moe
is "a seed is a text" same "$out" "$tmp/sampled"
go 0 run $L -p "$story" -n 8 --temperature 1 --seed 4
is "another seed, another text" differ "$out" "$tmp/sampled"
# shellcheck disable=SC2086
go 0 run $L -p "$story" -n 30 $no_end --print-ids
is "-n ids" [ "$(tr ',' '\n' <"$out" | wc -l)" = 30 ]
keep ids
# shellcheck disable=SC2086
go 0 run $L -p "$story" -n 30 $no_end --json
is "one JSON document" valid_json "$out"
is "with the same ids" grep -qF "\"ids\": $(cat "$tmp/ids")" "$out"
is "finish_reason length" prints '"finish_reason": "length"'
go 0 tokenize $L -p "$story"
n=$(tr ',' '\n' <"$out" | wc -l)
# shellcheck disable=SC2086
go 0 run $L -p "$story" --ctx $((n + 35)) $no_end --print-ids
is "until the context's end" [ "$(tr ',' '\n' <"$out" | wc -l)" = 35 ]
is "and says so" says "finish_reason: length"
refused "$n" run $L -p "$story" --ctx $((n - 1))
third=$(sed 's/^\[[0-9]*, [0-9]*, \([0-9]*\),.*/\1/' "$tmp/ids")
go 0 run $L -p "$story" -n 30 --print-ids --eos-id "$third"
is "an end id ends it, and is given" grep -qE "^\[[0-9]+, [0-9]+, $third\]|^\[($third|[0-9]+, $third)\]" "$out"
go 0 run $L -p "$story" -n 30 --print-ids --eos-id "$third" --eos-early-stop
is "early stop too" grep -qE "$third\]$" "$out"
word=$(tr -s ' \n' '\n\n' <"$tmp/default" | sed -n 4p)
go 0 run $L -p "$story" -n 30 --stop "$word"
awk -v w="$word" 'BEGIN {RS = "\001"} {print substr($0, 1, index($0, w) - 1)}' "$tmp/default" >"$tmp/want"
is "--stop $word" same "$out" "$tmp/want"

# ---- trace ----
# shellcheck disable=SC2086
go 0 run $L -p "$story" -n 30 $no_end --trace "$tmp/trace.json" --print-ids
is "ids as without" same "$out" "$tmp/ids"
is "the trace is JSON" valid_json "$tmp/trace.json"
is "its form" grep -qE '^\{"blocks": \[\{"start": 0, "steps": \[\{"ids": \[[0-9, ]+\]\}' "$tmp/trace.json"
last=$(grep -o '\[[0-9, ]*\]' "$tmp/trace.json" | tail -n 1 | tr -d '[] ' | cut -d, -f1-$(((n + 30) % 32)))
want=$(tr -d '[] \n' <"$tmp/ids" | tr ',' '\n' | tail -n $(((n + 30) % 32)) | tr '\n' ',' | sed 's/,$//')
is "its last step is what was given" [ "$last" = "$want" ]
is "rows of a block" [ "$(grep -o '\[[0-9, ]*\]' "$tmp/trace.json" | head -n 1 | tr ',' '\n' | wc -l)" = 32 ]
rm "$tmp/trace.json"
refused "vocabulary" run $L --ids 5,4096 --trace "$tmp/trace.json"
is "a failed run leaves no trace" [ ! -e "$tmp/trace.json" ]
go 1 run $L -p "$story" -n 8 --trace "$tmp/no/where.json"
is "a trace that cannot be written" says "where.json"

# ---- ids that the vocabulary does not have ----
for n in "-n 4" "-n 0"; do
    # shellcheck disable=SC2086
    refused "mask id 4096" run $L -p x $n --mask-id 4096
    # shellcheck disable=SC2086
    refused "end id 99999" run $L -p x $n --eos-id 1,99999
done
mkdir "$tmp/model"
ln -s "$PWD"/$L/* "$tmp/model/"
rm "$tmp/model/config.json" "$tmp/model/generation_config.json"
sed '/"mask_token_id"/d; /"eos_token_id"/d' $L/config.json >"$tmp/model/config.json"
refused "mask id" run "$tmp/model" -p x -n 4 # the published default is not in this small vocabulary
go 0 run "$tmp/model" -p "$story" -n 30 --mask-id 3 --eos-id 1
is "named by hand" same "$out" "$tmp/default"
go 0 logits "$tmp/model" --ids 1,2,3 --out "$tmp/l.npy"
go 0 logits $L --ids 1,2,3 --out "$tmp/l2.npy"
is "logits never need them" same "$tmp/l.npy" "$tmp/l2.npy"

# ---- decoders ----
for d in llada2.1 dinfer-threshold dinfer-credit dinfer-hierarchy; do
    # shellcheck disable=SC2086
    go 0 run $L -p "$story" -n 30 $no_end --decoder $d --print-ids --trace "$tmp/trace.json"
    is "$d: 30 ids" [ "$(tr ',' '\n' <"$out" | wc -l)" = 30 ]
    is "$d: trace" valid_json "$tmp/trace.json"
    keep "$d"
    # shellcheck disable=SC2086
    go 0 run $L -p "$story" -n 30 $no_end --decoder $d --print-ids --threads 1 --no-pass moe
    is "$d: same ids" same "$out" "$tmp/$d"
done
go 0 run $L -p "$story" -n 30 --decoder llada2.0
is "the model's decoder by name" same "$out" "$tmp/default"
# shellcheck disable=SC2086
for how in "--editing-threshold 0.9 --max-post-steps 16 --num-to-transfer 1 --max-steps-per-block 1000 --threshold 0.95" "--threads 3"; do
    go 0 run $L -p "$story" -n 30 $no_end --decoder llada2.1 --print-ids $how
    is "2.1: $how is no other text" same "$out" "$tmp/llada2.1"
done
# shellcheck disable=SC2086
go 0 run $L -p "$story" -n 30 $no_end --decoder dinfer-credit --credit-alpha 0.7 --credit-gamma 0.2 --credit-decay 0.8 --threshold 0.9 --print-ids
is "credit: its defaults by hand" same "$out" "$tmp/dinfer-credit"
# shellcheck disable=SC2086
go 0 run $L -p "$story" -n 30 $no_end --decoder dinfer-hierarchy --low-threshold 0.4 --print-ids
is "hierarchy: its default by hand" same "$out" "$tmp/dinfer-hierarchy"
go 0 run $L -p "$story" -n 8 --decoder llada2.1 --temperature 1 --seed 3
go 0 run $L -p "$story" -n 30 --decoder llada2.1 --eos-early-stop
usage "decoder \"other\" is unknown" run $L -p x -n 4 --decoder other
usage "delete_token_id" run $L -p x -n 4 --decoder llada2.2
usage "not in" run $L -p x -n 4 --decoder llada2.1 --editing-threshold -1
usage "not in" run $L -p x -n 4 --decoder llada2.1 --num-to-transfer 0
usage "not in" run $L -p x -n 4 --decoder dinfer-credit --credit-decay 1.5
# what one decoder takes, the others refuse
apart() {
    # shellcheck disable=SC2086
    usage "$1 does not apply to the decoder $2" run $L -p x -n 4 --decoder $2 $3
}
apart editing_threshold llada2.0 "--editing-threshold 0.5"
apart max_post_steps llada2.0 "--max-post-steps 0"
apart num_to_transfer dinfer-threshold "--num-to-transfer 2"
apart max_steps_per_block llada2.0 "--max-steps-per-block 2"
apart steps llada2.1 "--steps 4"
apart minimal_topk llada2.1 "--minimal-topk 4"
apart eos_early_stop dinfer-credit "--eos-early-stop"
apart low_threshold dinfer-threshold "--low-threshold 0.1"
apart credit_alpha dinfer-hierarchy "--credit-alpha 1"
apart credit_gamma llada2.1 "--credit-gamma 1"
apart credit_decay llada2.0 "--credit-decay 1"
usage "temperature" run $L -p x -n 4 --decoder dinfer-threshold --temperature 1
# ---- flags of other models ----
for f in "--decoder llada2.0" "--editing-threshold 1" "--max-post-steps 1" "--num-to-transfer 1" "--max-steps-per-block 9" \
    "--low-threshold 0.1" "--credit-alpha 1" "--credit-gamma 1" "--credit-decay 1"; do
    # shellcheck disable=SC2086
    usage "${f%% *} does not apply" run $G -p x -n 1 $f
done
usage "--repeat-penalty" run $L -p x -n 1 --repeat-penalty 1.1
usage "diffusion" perplexity $L -f $L/config.json
usage "minimal_topk" run $L -p x -n 4 --minimal-topk 5

# ---- logits ----
ids=$(sed 's/.*"logits": {"ids": \[\([^]]*\)\].*/\1/' tests/vectors/stories/llada2-stories.json | tr -d ' ')
go 0 logits $L --ids "$ids" --out "$tmp/whole.npy"
for how in "--chunk 1" "--chunk 33" "--chunk 64" "--block-length 32" "--threads 1"; do
    # shellcheck disable=SC2086
    go 0 logits $L --ids "$ids" --out "$tmp/l.npy" $how
    is "logits $how" same "$tmp/l.npy" "$tmp/whole.npy"
done
go 0 logits $L --ids "$ids" --out "$tmp/l.npy" --block-length 16
is "another block length, other logits" differ "$tmp/l.npy" "$tmp/whole.npy"
finish
