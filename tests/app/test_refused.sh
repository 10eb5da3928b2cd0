#!/bin/sh
# Broken models: each is refused with exit 1 and a line that names the file and what is wrong in it.
. "$(dirname "$0")/lib.sh" "$1"

m=$tmp/model
# model DIR: $m as links to it, with the files named after it as copies to be broken.
model() {
    rm -rf "$m"
    mkdir "$m"
    ln -s "$PWD/$1"/* "$m/"
    shift
    for f in "$@"; do
        cp --remove-destination "$(readlink "$m/$f")" "$m/$f"
        chmod u+w "$m/$f"
    done
}
# config TEXT SED [DIR]: the config edited by SED is refused with TEXT by all that read it.
config() {
    model "${3:-$G}" config.json
    sed -i "$2" "$m/config.json"
    refused "$1" run "$m" --ids 1,2 -n 1
    is "names the config: $(cat "$err")" says "config.json"
    refused "$1" inspect "$m"
    refused "$1" graph "$m/config.json"
    refused "$1" synth "$m/config.json" "$tmp/made"
    is "made nothing" [ ! -e "$tmp/made" ]
}
# weights TEXT: $m's broken weights are refused by all that read them.
weights() {
    refused "$1" run "$m" --ids 1,2 -n 1
    refused "$1" logits "$m" --ids 1,2 --out "$tmp/l.npy"
    refused "$1" inspect "$m"
    is "no file was left" [ ! -e "$tmp/l.npy" ]
}

# ---- configs ----
for d in $D $L; do
    config "_experts" 's/\(_routed_experts\|num_experts\)": [0-9]*/\1": 0/' $d
    config "hidden_size" '/"hidden_size"/d' $d
done
for k in hidden_size num_hidden_layers vocab_size; do
    config "$k" "s/\"$k\": [0-9]*/\"$k\": 0/"
    config "$k" "s/\"$k\": [0-9]*/\"$k\": -4/"
    config "$k" "s/\"$k\": [0-9]*/\"$k\": 1e30/"
    config "$k" "s/\"$k\": [0-9]*/\"$k\": 99999999999999/"
    config "$k" "s/\"$k\": [0-9]*/\"$k\": \"8\"/"
    config "$k" "s/\"$k\": [0-9]*/\"$k\": [4]/"
    config "$k" "s/\"$k\": [0-9]*/&, \"$k\": 4/" # twice
done
config "model_type" 's/"model_type": "[a-z0-9_]*"/"model_type": "mamba"/'
config "model_type" '/"model_type"/d'
config "model_type" 's/"model_type": "[a-z0-9_]*"/"model_type": 7/'
config "hidden_activation" 's/gelu_pytorch_tanh/cubic/'
config "layer_types" 's/"full_attention"/"partial_attention"/'
config "layer_types" '0,/"sliding_attention",/s///'
config "num_key_value_heads" 's/"num_key_value_heads": 1/"num_key_value_heads": 3/'
config "rms_norm_eps" 's/"rms_norm_eps": [0-9e-]*/"rms_norm_eps": null, "rms_norm_eps": -1/'
config "scoring_func" 's/"scoring_func": "sigmoid"/"scoring_func": "dice"/' $D
config "num_experts_per_tok" 's/"num_experts_per_tok": 2/"num_experts_per_tok": 9/' $D
config "topk_group" 's/"topk_group": 2/"topk_group": 5/' $D
config "rope_scaling" 's/"type": "yarn"/"type": "knot"/' $D
config "config.json" 's/^{/[{/'
config "config.json" '$d'
config "config.json" 's/"vocab_size": 4096/"vocab_size": 04096/'
config "config.json" 's/"use_cache": true/"use_cache": NaN/'
model $G config.json
: >"$m/config.json"
refused "config.json" run "$m" --ids 1
head -c 100000 /dev/zero | tr '\0' '[' >"$m/config.json"
refused "config.json" run "$m" --ids 1
rm "$m/config.json"
refused "config.json" run "$m" --ids 1
mkdir "$m/config.json"
refused "config.json" run "$m" --ids 1
refused "$tmp/nowhere" run "$tmp/nowhere" --ids 1
refused "lib.sh" run tests/app/lib.sh --ids 1
model $G generation_config.json
sed -i 's/"temperature": 0.8/"temperature": -1/' "$m/generation_config.json"
refused "temperature" run "$m" --ids 1
is "names the file" says "generation_config.json"
sed -i 's/"temperature": -1/"temperature": "hot"/' "$m/generation_config.json"
refused "temperature" run "$m" --ids 1

# ---- weights ----
model $G model.safetensors
size=$(wc -c <"$m/model.safetensors")
for keep_bytes in 0 7 8 100 20000 $((size - 1)); do
    head -c "$keep_bytes" $G/model.safetensors >"$m/model.safetensors"
    weights "model.safetensors"
done
cp $G/model.safetensors "$m/model.safetensors"
printf x >>"$m/model.safetensors"
weights "model.safetensors"
# Edits of the header that keep its length.
edited() {
    LC_ALL=C sed "$2" $G/model.safetensors >"$m/model.safetensors"
    is "the edit took: $2" differ $G/model.safetensors "$m/model.safetensors"
    weights "$1"
}
edited "model.layers.0.self_attn.q_proj" '1s/layers.0.self_attn.q_proj/layers.0.self_attn.q_proy/'
edited "embed_tokens" '1s/model.embed_tokens.weight":{"dtype":"BF16","shape":\[4096,256\]/model.embed_tokens.weight":{"dtype":"BF16","shape":[2048,512]/'
edited "safetensors" '1s/"dtype":"BF16"/"dtype":"XF16"/'
edited "safetensors" '1s/"data_offsets":\[0,/"data_offsets":[2,/'
edited "safetensors" '1s/{/[/'
printf '\377\377\377\377\377\377\377\177{}' >"$m/model.safetensors"
weights "model.safetensors"
rm "$m/model.safetensors"
weights "safetensors"
mkdir "$tmp/gguf"
head -c 3000 tests/vectors/gguf-llama-q8_0/model.gguf >"$tmp/gguf/model.gguf"
refused "model.gguf" run "$tmp/gguf/model.gguf" --ids 1
refused "model.gguf" inspect "$tmp/gguf"
refused "model.gguf" tokenize "$tmp/gguf/model.gguf" -p x
printf 'GGUF\003\000\000\000' >"$tmp/gguf/model.gguf"
refused "model.gguf" run "$tmp/gguf/model.gguf" --ids 1
printf 'GGML' >"$tmp/gguf/model.gguf"
refused "model.gguf" run "$tmp/gguf/model.gguf" --ids 1

# ---- tokenizers ----
tokenizer() {
    model $G tokenizer.json
    sed -i "$2" "$m/tokenizer.json"
    is "the edit took: $2" differ $G/tokenizer.json "$m/tokenizer.json"
    refused "$1" tokenize "$m" -p "Once upon"
    is "names the file: $(cat "$err")" says "tokenizer.json"
    refused "$1" run "$m" -p "Once upon" -n 1
    go 0 run "$m" --ids 1,2 -n 1 --print-ids # needs none
}
tokenizer "type" '0,/"type": *"BPE"/s//"type": "WordPiece"/'
tokenizer "tokenizer.json" '0,/"merges"/s//"mergers"/'
tokenizer "tokenizer.json" '0,/"vocab"/s//"vocap"/'
tokenizer "tokenizer.json" '1s/^{/[/'
model $G tokenizer.json
head -c 5000 $G/tokenizer.json >"$m/tokenizer.json"
refused "tokenizer.json" tokenize "$m" -p x
rm "$m/tokenizer.json"
refused "tokenizer.json" run "$m" -p x

# ---- ids ----
for d in $G $D $L; do
    refused "4096" run $d --ids 1,4096
    refused "2147483648" run $d --ids 1,2147483648
    refused "-1" run $d --ids=-1
    refused "empty" run $d --ids ""
done

# ---- memory ----
refused "available" run $G --ids 1 --ctx 1000000000
for item in weights KV activations MiB; do is "the need is itemised: $item" says "$item"; done
# A model whose weights are a hole in a file: 2 TiB of them.
mkdir "$tmp/huge"
wide=131072 vocab=4194304
cat >"$tmp/huge/config.json" <<END
{"model_type": "llama", "hidden_size": $wide, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
 "num_key_value_heads": 1, "head_dim": 64, "vocab_size": $vocab, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": true}
END
at=0 header=
tensor() {
    bytes=$2
    shape=$2
    [ $# = 3 ] && bytes=$(($2 * $3)) && shape=$2,$3
    header="$header,\"model.$1.weight\":{\"dtype\":\"F32\",\"shape\":[$shape],\"data_offsets\":[$at,$((at + 4 * bytes))]}"
    at=$((at + 4 * bytes))
}
tensor embed_tokens $vocab $wide
tensor norm $wide
tensor layers.0.input_layernorm $wide
tensor layers.0.post_attention_layernorm $wide
tensor layers.0.self_attn.q_proj 64 $wide
tensor layers.0.self_attn.k_proj 64 $wide
tensor layers.0.self_attn.v_proj 64 $wide
tensor layers.0.self_attn.o_proj $wide 64
tensor layers.0.mlp.gate_proj 64 $wide
tensor layers.0.mlp.up_proj 64 $wide
tensor layers.0.mlp.down_proj $wide 64
header="{${header#,}}"
n=${#header}
# shellcheck disable=SC2059
printf "\\$(printf %o $((n % 256)))\\$(printf %o $((n / 256)))\\0\\0\\0\\0\\0\\0%s" "$header" >"$tmp/huge/model.safetensors"
if truncate -s $((8 + n + at)) "$tmp/huge/model.safetensors" 2>/dev/null; then
    refused "available" run "$tmp/huge" --ids 1 -n 1
    for item in weights KV activations MiB; do is "the need is itemised: $item" says "$item"; done
    refused "available" logits "$tmp/huge" --ids 1 --out "$tmp/l.npy"
    is "no file was left" [ ! -e "$tmp/l.npy" ]
    go 0 inspect "$tmp/huge" --json
    is "inspect shows it" prints "\"weights\": 2199"
else
    echo "skipped: this file system holds no sparse file of 2 TiB"
fi
# A control group's limit counts, where one can be made: version 2, or 1.
group=
for at in "/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup) memory.max" \
    "/sys/fs/cgroup/memory$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup) memory.limit_in_bytes"; do
    try=${at% *}/millrace-test-$$
    [ "$group" ] || [ ! -f "${at% *}/cgroup.procs" ] || ! mkdir "$try" 2>/dev/null || {
        if echo 12582912 2>/dev/null >"$try/${at#* }"; then group=$try; else rmdir "$try"; fi
    }
done
if [ "$group" ] && ! grep -q __asan_init "$M"; then
    sh -c 'echo $$ >"$1/cgroup.procs" && exec "$2" run "$3" --ids 1,2 -n 1' sh "$group" "$M" $G >"$out" 2>"$err"
    is "12 MiB are not enough: exit 1" [ $? = 1 ]
    is "and that is said: $(cat "$err")" says "available"
else
    echo "skipped: no control group with a memory limit can be made, or the build is sanitized"
fi
[ -z "$group" ] || rmdir "$group"
finish
