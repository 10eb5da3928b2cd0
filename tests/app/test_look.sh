#!/bin/sh
# inspect and graph: every plan, stage and format, with weights and from a config alone.
. "$(dirname "$0")/lib.sh" "$1"

# ---- inspect ----
for m in $G $D $L tests/vectors/mlx-gemma3-4bit tests/vectors/gguf-llama-q8_0/model.gguf; do
    go 0 inspect $m
    is "tensors of $m" grep -q '^tensors$' "$out"
    is "no escapes" no_escapes "$out"
    go 0 inspect $m --json
    is "inspect $m --json is JSON" valid_json "$out"
    is "no tensor is missing" [ "$(grep -o '"dtype"' "$out" | wc -l)" -gt 10 ]
done
type_of() { "$M" inspect "$1" --json | tr -d '\n' | sed 's/.*"model_type": "\([^"]*\)", "family": "\([^"]*\)", "diffusion": \([a-z]*\),.*/\1 \2 \3/'; }
is "model_type as written" [ "$(type_of $G)" = "gemma3_text gemma3 false" ]
is "model_type as written" [ "$(type_of $D)" = "deepseek_v3 deepseek false" ]
is "model_type as written" [ "$(type_of $L)" = "llada2_moe llada2 true" ]
go 0 inspect $L --json
is "block and mask" prints '"block_length": 32, "mask_id": 3'
is "the tokenizer" prints '"tokenizer": "byte-level BPE, 4096 ids"'
bytes=$(grep -o '"bytes_by_dtype": {[^}]*}' "$out" | grep -o ': [0-9]*' | tr -d ': ' | awk '{s += $1} END {print s}')
size=$(wc -c <$L/model.safetensors)
is "bytes by dtype are the file's: $bytes of $size" [ $((size - bytes)) -gt 8 ]
is "less its header" [ $((size - bytes)) -lt 40000 ]
kv() { "$M" inspect $G --ctx "$1" --json | tr -d '\n' | sed 's/.*"kv": \([0-9]*\),.*/\1/'; }
is "KV grows with the context" [ "$(kv 100000)" -gt $(($(kv 1000) * 10)) ]
go 0 inspect $G/config.json
is "a config alone" prints "gemma3_text"
is "without tensors" [ "$(grep -c '^tensors$' "$out")" = 0 ]
refused "nowhere" inspect "$tmp/nowhere"

# ---- inspect --dequantise ----
for type in q4_0 q5_1 q2_k q6_k iq4_xs mxfp4 nvfp4; do
    go 0 inspect --dequantise $type tests/tensor/data/$type.bin "$tmp/$type.npy"
    tail -c 8192 "$tmp/$type.npy" >"$tmp/got"
    tail -c 8192 tests/tensor/data/$type.npy >"$tmp/want"
    is "values of $type" cmp -s "$tmp/got" "$tmp/want"
    is "head of $type" [ "$(wc -c <"$tmp/$type.npy")" = 8320 ]
done
go 0 inspect --dequantise=Q4_K tests/tensor/data/q4_k.bin "$tmp/upper.npy"
usage 'no type of blocks is called "affine"' inspect --dequantise affine tests/tensor/data/q4_0.bin "$tmp/no.npy"
refused "1152 bytes are not whole q6_k blocks of 210" inspect --dequantise q6_k tests/tensor/data/q4_0.bin "$tmp/no.npy"
is "no file" [ ! -e "$tmp/no.npy" ]
usage "needs --dequantise TYPE IN.bin OUT.npy" inspect --dequantise q4_0 tests/tensor/data/q4_0.bin
usage "goes with neither" inspect --json --dequantise q4_0 tests/tensor/data/q4_0.bin "$tmp/no.npy"

# ---- graph ----
mkdir "$tmp/bare"
for m in $G $D $L $G/config.json tests/vectors/llama3; do
    for plan in decode prefill; do
        for stage in built fused plan; do
            go 0 graph $m --plan $plan --stage $stage
            is "text of $m $plan $stage" [ "$(wc -l <"$out")" -gt 20 ]
            keep "$plan.$stage"
        done
        for format in dot svg json; do
            for stage in built plan; do
                go 0 graph $m --plan $plan --stage $stage --format $format
                case $format in
                dot) is "dot of $m $plan $stage" grep -q '^digraph' "$out" ;;
                svg) is "svg of $m $plan $stage" [ "$(grep -c '</svg>' "$out")" = 1 ] ;;
                json) is "json of $m $plan $stage" valid_json "$out" ;;
                esac
            done
        done
    done
    is "stages differ" differ "$tmp/decode.built" "$tmp/decode.fused"
    is "plans are of one graph" same "$tmp/prefill.fused" "$tmp/decode.fused"
    is "and of other sizes" differ "$tmp/prefill.plan" "$tmp/decode.plan"
done
go 0 graph $G
keep fused
go 0 graph $G --plan decode --stage fused --format text
is "decode, fused, text is what is shown unasked" same "$out" "$tmp/fused"
go 0 graph $G --report
is "the report names passes" grep -q '^qkv: 6 changes' "$out"
is "and what runs the steps" grep -qE 'linear|attention' "$out"
go 0 graph $G --no-pass qkv --report
is "a pass left out does nothing" [ "$(grep -c '^qkv: 6 changes' "$out")" = 0 ]
go 0 graph $L --block-length 8 --stage plan
is "--block-length" grep -q ' 8 rows' "$out"
usage "block length" graph $G --block-length 8
refused "nowhere" graph "$tmp/nowhere"
if [ -w /dev/full ]; then
    "$M" graph $G >/dev/full 2>"$err"
    is "a failed write is exit 1" [ $? = 1 ]
fi
finish
