#!/bin/sh
# perplexity: the bundled models' loss as the reference has it; windows; precision against precision.
. "$(dirname "$0")/lib.sh" "$1"

near() { awk -v a="$1" -v b="$2" -v d="$3" 'BEGIN {e = a - b; exit !(a != "" && e <= d && e >= -d)}'; }
for m in gemma3-stories deepseek-v3-stories; do
    golden=tests/vectors/stories/$m.json
    sed 's/.*"perplexity": {"ids": \(\[\[[^a-z]*\]\]\), "predicted".*/\1/' $golden >"$tmp/$m.json"
    nll=$(sed 's/.*"nll": \([0-9.]*\),.*/\1/' $golden)
    predicted=$(sed 's/.*"predicted": \([0-9]*\),.*/\1/' $golden)
    go 0 perplexity models/$m --ids-file "$tmp/$m.json" --precision exact
    is "$m: nll $(cat "$out"), $nll in the reference" near "$(get 'nll  *\([0-9.]*\)' "$out")" "$nll" 0.0001
    is "$m: over $predicted tokens" prints "($predicted tokens)"
done

# One row is enough for the rest.
sed 's/^\[\(\[[^]]*\]\).*/\1/' "$tmp/gemma3-stories.json" >"$tmp/row.json"
go 0 perplexity $G --ids-file "$tmp/row.json" --json
keep fast
is "JSON" valid_json "$out"
nll=$(get '"nll": \([0-9.]*\)' "$out")
ppl=$(get '"perplexity": \([0-9.]*\)' "$out")
is "perplexity is exp(nll)" awk -v a="$nll" -v b="$ppl" 'BEGIN {e = exp(a) / b; exit !(e > 0.99999 && e < 1.00001)}'
echo "[$(cat "$tmp/row.json")]" >"$tmp/rows.json"
go 0 perplexity $G --ids-file "$tmp/rows.json" --json
is "one row in a list" same "$out" "$tmp/fast"
go 0 perplexity $G --ids-file "$tmp/row.json" --json --threads 1 --no-pass qkv
is "threads and passes do not show" same "$out" "$tmp/fast"
go 0 perplexity $G --ids-file "$tmp/row.json" --json --against exact
is "JSON" valid_json "$out"
is "the same nll" near "$(get '"nll": \([0-9.]*\),' "$out")" "$nll" 0
is "KL is small" near "$(get '"mean_kl": \([0-9.e-]*\)' "$out")" 0 0.001
is "but not none" grep -qE '"mean_kl": [1-9]' "$out"
go 0 perplexity $G --ids-file "$tmp/row.json" --precision exact --against exact --json
is "exact against itself" grep -qE '"mean_kl": -?0[,}]' "$out"
is "and agrees" prints '"top1_agreement": 1'
n=$(tr ',' '\n' <"$tmp/row.json" | wc -l)
go 0 perplexity $G --ids-file "$tmp/row.json" --ctx 100 --json
is "windows: each loses its first" prints "\"tokens\": $((n - (n + 99) / 100))"
is "and sees less" differ "$out" "$tmp/fast"

# ---- text ----
printf 'The King and the Queen went down to the river, and there they saw a little boat.' >"$tmp/prompt"
go 0 perplexity $G -f "$tmp/prompt"
keep text
"$M" perplexity $G -f - <"$tmp/prompt" >"$out"
is "-f -" same "$out" "$tmp/text"
go 0 tokenize $G -f "$tmp/prompt"
keep ids
go 0 perplexity $G --ids-file "$tmp/ids"
is "ids of the same text" same "$out" "$tmp/text"

# ---- refusals ----
echo '[5]' >"$tmp/one.json"
refused "two ids" perplexity $G --ids-file "$tmp/one.json"
echo '[[5], [7]]' >"$tmp/one.json"
refused "two ids" perplexity $G --ids-file "$tmp/one.json"
echo '[5, 4096]' >"$tmp/bad.json"
refused "4096" perplexity $G --ids-file "$tmp/bad.json"
for bad in '[]' '[[1, 2], 3]' '[[1, "x"]]' '{"a": [1, 2]}'; do
    printf '%s' "$bad" >"$tmp/bad.json"
    refused "bad.json" perplexity $G --ids-file "$tmp/bad.json"
done
refused "nowhere" perplexity $G -f "$tmp/nowhere"
finish
