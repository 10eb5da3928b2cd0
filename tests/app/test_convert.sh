#!/bin/sh
# convert: the same numbers in another form give the same bytes; fewer bits stay close; nothing is left of a failure.
. "$(dirname "$0")/lib.sh" "$1"

ids=3,1,4,1,5,9,2,6,5,3,5,8,9,7,9,3

# ---- the same numbers, the same bytes ----
for m in llama3 dsv3 gemma3-4b mlx-dsv3-4bit mlx-gemma3-8bit-g32 llada2-base; do
    c=$tmp/$m
    go 0 convert tests/vectors/$m "$c" --quant f32
    is "nothing is printed: $m" [ ! -s "$out" ]
    is "config is JSON: $m" valid_json "$c/config.json"
    is "and says nothing of quantisation" [ "$(grep -c quantization "$c/config.json")" = 0 ]
    is "index is JSON: $m" valid_json "$c/model.safetensors.index.json"
    go 0 inspect "$c" --json
    is "nothing was left over: $m" prints '"skipped": []'
    for d in tests/vectors/$m "$c"; do
        go 0 logits $d --ids $ids --precision exact --out "$tmp/$(basename $d).npy.$([ $d = "$c" ] && echo new || echo old)"
    done
    is "the same bytes: $m" same "$tmp/$m.npy.old" "$tmp/$m.npy.new"
done
go 0 convert tests/vectors/llama3 "$tmp/kept"
go 0 logits "$tmp/kept" --ids $ids --precision exact --out "$tmp/kept.npy"
is "without --quant floats stay as they are" same "$tmp/llama3.npy.old" "$tmp/kept.npy"

# ---- under the names that MLX's programs look for ----
named() { grep -q "\"$2\"" "$tmp/$1/model.safetensors.index.json"; }
is "a latent's keys are turned" named dsv3 model.layers.1.self_attn.embed_q.weight
is "and its values apart" named dsv3 model.layers.1.self_attn.unembed_out.weight
is "the size of the vocabulary is outside, too" grep -q '^  "vocab_size": 288' "$tmp/gemma3-4b/config.json"
for m in dsv2 gemma4-26b-a4b gemma4-12b-unified gemma3-old-type qwen3-next qwen3.5-moe qwen3.5-moe-saved; do
    go 0 convert tests/vectors/$m "$tmp/$m"
    for d in tests/vectors/$m "$tmp/$m"; do
        go 0 logits $d --ids $ids --precision exact --out "$tmp/$m.npy.$([ $d = "$tmp/$m" ] && echo new || echo old)"
    done
    is "the same bytes: $m" same "$tmp/$m.npy.old" "$tmp/$m.npy.new"
done
is "V2 has a latent's matrix whole" named dsv2 model.layers.1.self_attn.kv_b_proj.weight
is "experts beside an MLP" named gemma4-26b-a4b language_model.model.layers.1.experts.switch_glu.up_proj.weight
is "Qwen3-Next's inputs are one" named qwen3-next model.layers.0.linear_attn.in_proj_qkvz.weight
is "and its gates" named qwen3-next model.layers.0.linear_attn.in_proj_ba.weight
is "Qwen3.5's are not" named qwen3.5-moe language_model.model.layers.0.linear_attn.in_proj_qkv.weight
is "its text model is put into the whole" named qwen3.5-moe-saved language_model.model.norm.weight
is "and its config" grep -q '"model_type": "qwen3_5_moe",' "$tmp/qwen3.5-moe-saved/config.json"
is "keys that others need" grep -q '"hidden_size_per_layer_input": 0' "$tmp/gemma4-12b-unified/config.json"
is "in their old spelling" grep -q '"rope_scaling": {"rope_type": "linear", "factor": 8}' "$tmp/gemma3-4b/config.json"
is "and none that the reference ignores" [ "$(grep -c rope_scaling "$tmp/gemma3-old-type/config.json")" = 0 ]

# ---- from GGUF ----
text="Hello there: 12,345 old   friends... \"don't\" na\303\257ve"
for m in gemma3-mix gemma4-e qwen3moe-split dsv2-lite-q8_0 dsv3-mix kimi-k2-q4_1 qwen3next-q8_0 qwen35-mtp llama-q8_0 llama-bf16; do
    g=$(ls tests/vectors/gguf-$m/*.gguf | head -n 1)
    go 0 convert "$g" "$tmp/from" --quant f32
    go 0 convert "$g" "$tmp/copy.gguf" --format gguf --force
    go 0 convert "$g" "$tmp/wide.gguf" --format gguf --quant f32 --force
    for d in "$g" "$tmp/from" "$tmp/copy.gguf" "$tmp/wide.gguf"; do
        go 0 logits "$d" --ids $ids --precision exact --out "$tmp/$(basename "$d").npy"
        [ $m = gemma4-e ] || go 0 tokenize "$d" -p "$text"
        keep "$(basename "$d").ids"
    done
    old=$(basename "$g")
    is "the same bytes: $m" same "$tmp/$old.npy" "$tmp/from.npy"
    is "the same bytes as one file: $m" same "$tmp/$old.npy" "$tmp/copy.gguf.npy"
    is "and widened: $m" same "$tmp/$old.npy" "$tmp/wide.gguf.npy"
    is "config is JSON: $m" valid_json "$tmp/from/config.json"
    [ $m = gemma4-e ] && { rm -rf "$tmp/from"; continue; }
    is "tokenizer is JSON: $m" valid_json "$tmp/from/tokenizer.json"
    is "its config is, too: $m" valid_json "$tmp/from/tokenizer_config.json"
    for d in from copy.gguf wide.gguf; do
        is "the same ids: $m $d" same "$tmp/$old.ids" "$tmp/$d.ids"
    done
    [ $m = llama-bf16 ] || rm -rf "$tmp/from"
done
is "the rule behind the divisors is found" grep -q '"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,' "$tmp/from/config.json"
is "the chat template came along" grep -q '"chat_template"' "$tmp/from/tokenizer_config.json"
go 0 convert tests/vectors/gguf-llama-bf16/model.gguf "$tmp/small.gguf" --format gguf --quant q4
go 0 inspect "$tmp/small.gguf"
is "requantised" prints q4_0
usage "--quant must say" convert tests/vectors/gguf-llama-mix/model.gguf "$tmp/x"

# ---- fewer bits ----
nll() { sed -n 's/.*nll[^0-9]*\([0-9.]*\).*/\1/p' "$out" | head -n 1; }
head -c 3000 README.md >"$tmp/text"
for q in q2 q3 q4 q5 q6 q8; do
    go 0 convert $G "$tmp/$q" --quant $q --group 32
    is "config says so" grep -q "\"quantization\": {\"group_size\": 32, \"bits\": ${q#q}" "$tmp/$q/config.json"
    is "the tokenizer came along" same $G/tokenizer.json "$tmp/$q/tokenizer.json"
    go 0 perplexity "$tmp/$q" -f "$tmp/text" --precision exact
    cp "$out" "$tmp/$q.txt"
done
go 0 perplexity $G -f "$tmp/text" --precision exact
cp "$out" "$tmp/float.txt"
# A model of $tmp/$1.json, without its tokenizer, and the GGUF file made of it.
same_as_gguf() {
    go 0 synth "$tmp/$1.json" "$tmp/$1" --quant f32
    rm "$tmp/$1/tokenizer.json"
    go 0 convert "$tmp/$1" "$tmp/$1.gguf" --format gguf
    for d in $1 $1.gguf; do
        go 0 logits "$tmp/$d" --ids $ids --precision exact --out "$tmp/$d.npy"
    done
    is "the same bytes: $2" same "$tmp/$1.npy" "$tmp/$1.gguf.npy"
}
number() { grep -o '[0-9][0-9]*\.[0-9][0-9]*' "$1" | head -n 1; }
near() { awk -v a="$(number "$1")" -v b="$(number "$2")" -v by="$3" 'BEGIN {d = a - b; exit !(d * d <= by * by * b * b)}'; }
is "q8 is within 0.2 %: $(number "$tmp/q8.txt") $(number "$tmp/float.txt")" near "$tmp/q8.txt" "$tmp/float.txt" 0.002
is "q6 is within 0.5 %: $(number "$tmp/q6.txt")" near "$tmp/q6.txt" "$tmp/float.txt" 0.005
is "q4 is within 5 %: $(number "$tmp/q4.txt")" near "$tmp/q4.txt" "$tmp/float.txt" 0.05
is "q2 differs: $(number "$tmp/q2.txt")" differ "$tmp/q2.txt" "$tmp/float.txt"
is "q4 is small" [ "$(wc -c <"$tmp/q4/model.safetensors")" -lt $(($(wc -c <$G/model.safetensors) / 3)) ]

# ---- GGUF: the same numbers, the same bytes ----
for m in llama-tied qwen3 qwen3-moe gemma1-7b gemma2-2b gemma3-4b dsv2 dsv3 kimi-k2 kimi-k25 mlx-dsv3-4bit gemma4-e2b gemma4-e4b \
    gemma4-26b-a4b gemma4-31b gemma4-12b-unified gemma4-missing-keys gemma4-text-bias-untied qwen3-next \
    qwen3.5 qwen3.5-moe qwen3.5-moe-saved qwen3.5-one-head mlx-qwen3-next-4bit mlx-qwen3.5-moe-4bit; do
    go 0 convert tests/vectors/$m "$tmp/m.gguf" --format gguf --quant f32 --force
    is "the missing tokenizer is said: $m" says "no tokenizer"
    refused "holds no tokenizer" tokenize "$tmp/m.gguf" -p x
    go 0 logits "$tmp/m.gguf" --ids $ids --precision exact --out "$tmp/new.npy"
    go 0 logits tests/vectors/$m --ids $ids --precision exact --out "$tmp/old.npy"
    is "the same bytes: $m" same "$tmp/old.npy" "$tmp/new.npy"
done
for q in q4 q4_1 q5_0 q5_1 q8 q2_k q4_k q6_k; do
    go 0 convert $G "$tmp/$q.gguf" --format gguf --quant $q
    go 0 perplexity "$tmp/$q.gguf" -f "$tmp/text" --precision exact
    cp "$out" "$tmp/$q.g.txt"
done
is "q8_0 is within 0.2 %: $(number "$tmp/q8.g.txt")" near "$tmp/q8.g.txt" "$tmp/float.txt" 0.002
is "q5_1 is within 2 %: $(number "$tmp/q5_1.g.txt")" near "$tmp/q5_1.g.txt" "$tmp/float.txt" 0.02
is "q6_k is within 1 %: $(number "$tmp/q6_k.g.txt")" near "$tmp/q6_k.g.txt" "$tmp/float.txt" 0.01
is "q4_k is within 5 %: $(number "$tmp/q4_k.g.txt")" near "$tmp/q4_k.g.txt" "$tmp/float.txt" 0.05
is "q2_k differs: $(number "$tmp/q2_k.g.txt")" differ "$tmp/q2_k.g.txt" "$tmp/float.txt"
is "q4_0 is within 10 %: $(number "$tmp/q4.g.txt")" near "$tmp/q4.g.txt" "$tmp/float.txt" 0.1
for a in $G "$tmp/q8.gguf"; do
    go 0 tokenize $a -p "Once upon a time, there's a Café: 12 dogs  "
    keep "$(basename $a).ids"
done
is "the tokenizer came along" same "$tmp/gemma3-stories.ids" "$tmp/q8.gguf.ids"
refused "query_pre_attn_scalar" convert tests/vectors/gemma2-27b "$tmp/x" --format gguf
refused "llada2_moe is not written" convert tests/vectors/llada2-base "$tmp/x" --format gguf
refused "experts in every layer" convert tests/vectors/qwen3-moe-saved "$tmp/x" --format gguf
refused "config.json: GGUF's qwen3next has experts in every layer" convert tests/vectors/qwen3-next-odd "$tmp/x" --format gguf
usage "unknown" convert $G "$tmp/x" --format onnx
usage "groups of their own" convert $G "$tmp/x" --format gguf --quant q4 --group 32
usage "unknown for GGUF" convert $G "$tmp/x" --format gguf --quant q3

# Biases where the first layer has no attention.
cat >"$tmp/biased.json" <<END
{"model_type": "qwen3_5_text", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
 "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 48, "attention_bias": true, "linear_num_key_heads": 2,
 "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
 "layer_types": ["linear_attention", "full_attention", "full_attention"]}
END
same_as_gguf biased "biases, layers of no period"
# Sizes that the config leaves to the class.
cat >"$tmp/defaults.json" <<END
{"model_type": "deepseek_v3", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
 "intermediate_size": 48}
END
go 0 synth "$tmp/defaults.json" "$tmp/defaults" --quant f32
refused "$tmp/defaults: GGUF has no name for this tokenizer's" convert "$tmp/defaults" "$tmp/x" --format gguf
rm "$tmp/defaults/tokenizer.json"
go 0 convert "$tmp/defaults" "$tmp/defaults.gguf" --format gguf
go 0 convert "$tmp/defaults" "$tmp/defaults.mlx"
for d in defaults defaults.gguf defaults.mlx; do
    go 0 logits "$tmp/$d" --ids $ids --precision exact --out "$tmp/$d.npy"
done
is "the same bytes: class defaults" same "$tmp/defaults.npy" "$tmp/defaults.gguf.npy"
is "the same bytes: class defaults, MLX" same "$tmp/defaults.npy" "$tmp/defaults.mlx.npy"

# ---- a matrix that the group does not divide ----
go 0 convert tests/vectors/llama3 "$tmp/odd" --quant q4 --group 128
is "is listed" says "model.layers.0.mlp.down_proj.weight stays unquantised: 160 is no multiple of 128"
go 0 run "$tmp/odd" --ids 1,2 -n 2 --print-ids
go 0 convert tests/vectors/llama3 "$tmp/odd.gguf" --format gguf --quant q4_k
is "and gets smaller blocks" says "blk.0.ffn_down.weight becomes q5_0: 160 is no multiple of 256"
go 0 run "$tmp/odd.gguf" --ids 1,2 -n 2 --print-ids

# ---- tokenizers ----
mkdir "$tmp/broken"
for f in $G/*; do ln -s "$PWD/$f" "$tmp/broken/"; done
rm "$tmp/broken/tokenizer.json"
head -c 5000 $G/tokenizer.json >"$tmp/broken/tokenizer.json"
refused "broken/tokenizer.json" convert "$tmp/broken" "$tmp/x" --format gguf
# One token more than the model has rows, as Gemma 3 has.
sed 's/"added_tokens": *\[/&{"id": 4096, "content": "<image>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}, /' \
    $G/tokenizer.json >"$tmp/broken/tokenizer.json"
go 0 tokenize "$tmp/broken" -p "a<image>b"
is "the edit took" prints 4096
go 0 convert "$tmp/broken" "$tmp/more.gguf" --format gguf
is "tokens without rows are left out, and that is said" says "tokens 4096 to 4096 are left out: the model has 4096"
go 0 tokenize "$tmp/more.gguf" -p "Once upon a time"
keep more.ids
go 0 tokenize $G -p "Once upon a time"
is "the others stay" same "$out" "$tmp/more.ids"
go 0 inspect "$tmp/more.gguf"
is "as many tokens as rows" [ "$(grep -c 4097 "$out")" = 0 ]

# ---- refusals leave nothing ----
refused "has one tap" convert tests/vectors/qwen3.5-conv1 "$tmp/x"
refused "GGUF cannot say this model; read back" convert tests/vectors/dsv3-freq "$tmp/x" --format gguf
for f in safetensors gguf; do
    (ulimit -f 500 && exec "$M" convert $G "$tmp/x" --format $f) >"$out" 2>"$err"
    is "a file that may not grow: exit 1: $f" [ $? = 1 ]
    is "and that is said" says "File too large"
    is "and nothing is left" [ -z "$(find "$tmp" -maxdepth 1 -name 'x*')" ]
done
usage "unknown" convert $G "$tmp/x" --quant q7
usage "unknown" convert $G "$tmp/x" --quant int4
usage "32, 64, 128" convert $G "$tmp/x" --quant q4 --group 48
usage "--quant must say" convert tests/vectors/mlx-gemma3-4bit "$tmp/x"
usage "a model is needed" convert $G/config.json "$tmp/x"

# ---- threads, one expert ----
for f in safetensors gguf; do
    for t in 1 3; do
        go 0 convert tests/vectors/llama3 "$tmp/t$t.$f" --format $f --quant q4 -t $t
    done
    is "the same bytes with any threads: $f" diff -r "$tmp/t1.$f" "$tmp/t3.$f"
done
go 0 convert tests/vectors/gguf-llama-k/model.gguf "$tmp/t1.k" --format gguf --quant q4_k -t 1
go 0 convert tests/vectors/gguf-llama-k/model.gguf "$tmp/t3.k" --format gguf --quant q4_k -t 3
is "the same bytes with any threads: from GGUF" same "$tmp/t1.k" "$tmp/t3.k"
sed 's/"num_experts": 16/"num_experts": 1/; s/"num_experts_per_tok": 4/"num_experts_per_tok": 1/' tests/vectors/qwen3-moe/config.json >"$tmp/one.json"
same_as_gguf one "one expert"

# ---- what is there already ----
for d in q4 q4.gguf; do
    f=safetensors
    [ $d = q4 ] || f=gguf
    find "$tmp/$d" -type f -exec cksum {} + >"$tmp/before"
    usage "$d: is there already" convert $G "$tmp/$d" --format $f
    find "$tmp/$d" -type f -exec cksum {} + >"$tmp/after"
    is "which stays as it is" same "$tmp/before" "$tmp/after"
done
usage "q4.gguf: is there already and is no directory" convert $G "$tmp/q4.gguf" --force
usage "q4: is what is read" convert "$tmp/q4" "$tmp/q4" --quant q8 --force
cp -r "$tmp/q4" "$tmp/own"
cp tests/vectors/llama3/config.json "$tmp/own/"
usage "own: is what is read" synth "$tmp/own/config.json" "$tmp/own" --force
is "which stays as it is" [ -s "$tmp/q4/model.safetensors" ]
: >"$tmp/q4/notes"
: >"$tmp/q4/model-00002-of-00002.safetensors"
for d in q4 fresh; do
    go 0 convert tests/vectors/llama3 "$tmp/$d" --force
    go 0 logits "$tmp/$d" --ids 5,9,7 --out "$tmp/$d.npy"
done
is "--force replaces a model" same "$tmp/q4.npy" "$tmp/fresh.npy"
rm "$tmp/q4/notes"
is "all of it, and nothing else" [ "$(ls "$tmp/q4")" = "$(ls "$tmp/fresh")" ]
go 0 convert $G "$tmp/q4.gguf" --format gguf --quant q8 --force
is "or a file" same "$tmp/q4.gguf" "$tmp/q8.gguf"
# What metadata cannot say is seen by reading back what was written.
# unsaid CASE SED TEXT: the case with its config edited.
unsaid() {
    rm -rf "$tmp/edited"
    mkdir "$tmp/edited"
    ln -s "$PWD/tests/vectors/$1/model.safetensors" "$tmp/edited/"
    sed "$2" "tests/vectors/$1/config.json" >"$tmp/edited/config.json"
    refused "$3" convert "$tmp/edited" "$tmp/x" --format gguf
}
unsaid llama3 's/"silu"/"gelu"/' "has gelu, which GGUF cannot say"
unsaid dsv3 's/"q_lora_rank"/"rope_interleave": false, "q_lora_rank"/' "rope with interleaved 0"
# a null member that MLX's programs need said is written once
rm -rf "$tmp/edited"
mkdir "$tmp/edited"
ln -s "$PWD/tests/vectors/qwen3-moe/model.safetensors" "$tmp/edited/"
sed 's/"mlp_only_layers": \[\]/"mlp_only_layers": null/' tests/vectors/qwen3-moe/config.json >"$tmp/edited/config.json"
go 0 convert "$tmp/edited" "$tmp/stated"
go 0 logits "$tmp/edited" --ids 5,9,7 --out "$tmp/before.npy"
go 0 logits "$tmp/stated" --ids 5,9,7 --out "$tmp/after.npy"
is "null said anew" cmp -s "$tmp/before.npy" "$tmp/after.npy"
refused "nowhere" convert "$tmp/nowhere" "$tmp/x"
refused "no/x" convert $G "$tmp/no/x"
cp -r tests/vectors/llama3 "$tmp/short"
chmod -R u+w "$tmp/short"
go 0 convert tests/vectors/llama3 "$tmp/short-out"
rm -rf "$tmp/short-out"
size=$(wc -c <"$tmp/short/model.safetensors")
head -c $((size - 4)) tests/vectors/llama3/model.safetensors >"$tmp/short/model.safetensors"
refused "model.safetensors" convert "$tmp/short" "$tmp/short-out"
is "no directory is left" [ ! -e "$tmp/short-out" ]
is "nor that of a usage error" [ ! -e "$tmp/x" ]
finish
