#!/bin/sh
# synth and bench: models of every format open, run and are measured.
. "$(dirname "$0")/lib.sh" "$1"

# ---- what is made opens and runs ----
for m in $G $D $L; do
    for q in f32 bf16 q8 q4; do
        o=$tmp/made
        rm -rf "$o"
        go 0 synth $m/config.json "$o" --quant $q --group 32
        is "nothing is printed" [ ! -s "$out" ]
        is "three files" [ "$(ls "$o")" = "$(printf 'config.json\nmodel.safetensors\ntokenizer.json')" ]
        is "config is JSON" valid_json "$o/config.json"
        go 0 inspect "$o" --json
        is "nothing was left over" prints '"skipped": []'
        go 0 run "$o" --ids 5,6,7 -n 4 --threads 1
        is "no NaN: $m $q" [ -s "$out" ]
    done
    is "q4 is small" [ "$(wc -c <"$o/model.safetensors")" -lt $(($(wc -c <$m/model.safetensors) / 2)) ]
    is "q4 is what the config says" grep -q '"quantization": {"group_size": 32, "bits": 4' "$o/config.json"
done
go 0 tokenize "$o" -p "Hi!" --no-special
is "the dummy tokenizer knows bytes" [ "$(tr ',' '\n' <"$out" | wc -l)" = 3 ]
go 0 tokenize "$o" --decode --ids "$(tr -d '[] \n' <"$out")"
is "and back" [ "$(cat "$out")" = "Hi!" ]

# ---- GGUF ----
tr -d '\n' <$D/config.json | sed 's/"rope_scaling": *{[^}]*}/"rope_scaling": null/' >"$tmp/mla.json"
for c in $G/config.json "$tmp/mla.json" tests/vectors/llama-tied/config.json; do
    for q in f32 f16 q8_0 q4_0 q4_1 q5_0 q5_1; do
        sed 's/"hidden_size": 72/"hidden_size": 288/; s/"num_attention_heads": 9/"num_attention_heads": 9, "head_dim": 32/' \
            "$c" >"$tmp/shape.json"
        go 0 synth "$tmp/shape.json" "$tmp/made.gguf" --format gguf --quant $q --force
        is "nothing is printed" [ ! -s "$out" ]
        go 0 inspect "$tmp/made.gguf" --json
        is "nothing was left over" prints '"skipped": []'
        go 0 run "$tmp/made.gguf" -p "Hi!" -n 4 --threads 1
        is "no NaN: $c $q" [ -s "$out" ]
    done
done
for q in q2_k q3_k q4_k q5_k q6_k; do
    go 0 synth $G/config.json "$tmp/made.gguf" --format gguf --quant $q --force
    go 0 run "$tmp/made.gguf" -p "Hi!" -n 4 --threads 1
    is "no NaN: $q" [ -s "$out" ]
done
rm "$tmp/made.gguf"
usage "whole blocks of 256" synth tests/vectors/llama-tied/config.json "$tmp/made.gguf" --format gguf --quant q4_k
refused "rope_" synth tests/vectors/llama3/config.json "$tmp/made.gguf" --format gguf
refused "llada2" synth $L/config.json "$tmp/made.gguf" --format gguf
is "nothing was made" [ ! -e "$tmp/made.gguf" ]

# ---- seeds ----
for s in 1 1 2; do
    mv -f "$tmp/seed/model.safetensors" "$tmp/before" 2>/dev/null
    rm -rf "$tmp/seed"
    go 0 synth $G/config.json "$tmp/seed" --seed $s --quant q4
    [ $s = 1 ] && [ -e "$tmp/before" ] && is "a seed is a model" same "$tmp/before" "$tmp/seed/model.safetensors"
done
is "another seed is another" differ "$tmp/before" "$tmp/seed/model.safetensors"

# ---- a matrix that the group does not divide ----
go 0 synth tests/vectors/llama3/config.json "$tmp/odd" --quant q4 --group 128
is "is listed" says "model.layers.0.mlp.down_proj.weight [64, 160] stays unquantised"
go 0 run "$tmp/odd" --ids 1,2 -n 2
go 0 inspect "$tmp/odd"
is "and stays" grep -q 'layers.0.mlp.down_proj.weight  *bf16' "$out"

# ---- small memory: 100 MB of weights in 64 MB of address space for data ----
sed 's/"hidden_size": 256/"hidden_size": 1024/; s/"vocab_size": 4096/"vocab_size": 24576/; s/"intermediate_size": 256/"intermediate_size": 2048/' \
    $G/config.json >"$tmp/large.json"
if (ulimit -d 65536) 2>/dev/null && [ -z "$(ldd "$M" 2>/dev/null | grep libasan)" ] && ! grep -q __asan_init "$M"; then
    (
        ulimit -d 65536
        exec "$M" synth "$tmp/large.json" "$tmp/large" --quant f32
    ) 2>"$err" </dev/null
    is "streams: $(cat "$err")" [ $? = 0 ]
    is "and is large" [ "$(wc -c <"$tmp/large/model.safetensors")" -gt 100000000 ]
    rm -rf "$tmp/large"
fi

# ---- signals leave nothing ----
# stop SIGNAL: synth is stopped once its temporary file is there; the model is too large to be done by then.
sed 's/"vocab_size": 24576/"vocab_size": 262144/' "$tmp/large.json" >"$tmp/huge.json"
stop() {
    "$M" synth "$tmp/huge.json" "$tmp/huge" --quant f32 </dev/null >"$out" 2>"$err" &
    pid=$!
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        [ -e "$tmp/huge" ] && [ "$(ls "$tmp/huge")" ] && break
        sleep 0.05
    done
    kill -STOP $pid
    is "a file is being written" [ "$(ls "$tmp/huge" | grep -c tmp)" = 1 ]
    for name_of in "$@"; do
        kill -"$name_of" $pid
    done
    kill -CONT $pid
    wait $pid
    code=$?
}
signals="TERM:143 INT:130 HUP:129"
if { sh -c 'kill -HUP $$'; } 2>/dev/null; then # under nohup it goes on
    echo "skipped: SIGHUP, which is ignored here"
    signals=${signals% *}
fi
for s in $signals; do
    stop ${s%:*}
    is "$s: exit $code" [ $code = ${s#*:} ]
    is "nothing is left" [ ! -e "$tmp/huge" ]
done
stop TERM INT # whichever comes first, the other ends it at once
is "two: exit $code" [ $((code == 143 || code == 130)) = 1 ]
is "no file is left" [ -z "$(find "$tmp/huge" -type f 2>/dev/null)" ]

# ---- refusals leave nothing ----
usage "odd: is there already" synth $G/config.json "$tmp/odd"
go 0 run "$tmp/odd" --ids 1,2 -n 2
refused "nowhere" synth "$tmp/nowhere.json" "$tmp/x"
refused "quantization" synth "$o/config.json" "$tmp/x"
refused "no/x" synth $G/config.json "$tmp/no/x"
usage "config.json" synth $G "$tmp/x"
: >"$tmp/file"
usage "file: is there already" synth $G/config.json "$tmp/file"
is "nothing was made" [ ! -e "$tmp/x" ]
mkdir "$tmp/half"
mkdir "$tmp/half/tokenizer.json" # cannot be replaced
refused "tokenizer.json" synth $G/config.json "$tmp/half" --force
is "all or nothing" [ "$(ls "$tmp/half")" = tokenizer.json ]

# ---- bench ----
go 0 bench "$tmp/odd" -p 8 -n 4 -r 2 --json
is "JSON" valid_json "$out"
for k in prefill decode; do
    is "$k tokens_per_s" [ "$(sed "s/.*\"$k\": {\"tokens_per_s\": \([0-9]*\).*/\1/" "$out")" -gt 0 ]
done
go 0 bench "$tmp/odd" -p 8 -n 0 -r 1 --json
is "prefill alone" prints '"prefill"'
is "no decode" [ "$(grep -c '"decode"' "$out")" = 0 ]
go 0 bench $L -p 40 -n 40 -r 1 --precision exact --threads 2
is "a diffusion model denoises" grep -q '^denoise' "$out"
is "tok/s" prints "tok/s"
go 0 bench "$tmp/odd" -p 0 -n 3 -r 1 --batch 3 --depth 20 --json
is "JSON" valid_json "$out"
is "three streams" prints '"batch": 3, "depth": 20'
is "a stream's own speed" prints '"tokens_per_s_and_stream"'
is "memory" prints '"planned_bytes": '
is "no profile unasked" [ "$(grep -c '"limits"' "$out")" = 0 ]
go 0 bench $D -p 20 -n 2 -r 1 --batch 2 --profile --json
is "JSON" valid_json "$out"
for k in read_gb_per_s int8_gop_per_s f32_gflop_per_s '"of": "prefill"' '"of": "decode"' share_of_limit; do
    is "the profile has $k" prints "$k"
done
go 0 bench $L -p 0 -n 32 -r 1 --batch 2 --depth 5 --profile
is "limits" prints "limits of 1 and"
is "rows of the denoising steps" grep -q '^attention .* %' "$out"
refused "KV of 1025 sessions" bench $G -p 1 -n 1 -r 1 --batch 1024 --depth 1000000
finish
