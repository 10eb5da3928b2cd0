#!/bin/sh
# tokenize: ids and text, one or many, with and without special tokens.
. "$(dirname "$0")/lib.sh" "$1"

go 0 tokenize $G -p "Once upon a time"
keep ids
is "a JSON array" grep -qE '^\[2(, [0-9]+)+\]$' "$out"
is "one line" lines "$out" 1 1
is "JSON" valid_json "$out"
go 0 tokenize $G -p "Once upon a time" --no-special
is "--no-special: the same without the first" [ "[2, $(tr -d '[' <"$out")" = "$(cat "$tmp/ids")" ]
printf 'Once upon a time' >"$tmp/text"
for how in "-f $tmp/text" "--file=$tmp/text"; do
    # shellcheck disable=SC2086
    go 0 tokenize $G $how
    is "$how" same "$out" "$tmp/ids"
done
"$M" tokenize $G <"$tmp/text" >"$out"
is "stdin" same "$out" "$tmp/ids"
"$M" tokenize $G -f - <"$tmp/text" >"$out"
is "-f -" same "$out" "$tmp/ids"
go 0 tokenize $G/tokenizer.json -p "Once upon a time"
go 0 tokenize $G -p ""
is "an empty text has its special tokens" [ "$(cat "$out")" = "[2]" ]
go 0 tokenize $G -p "" --no-special
is "or none" [ "$(cat "$out")" = "[]" ]

go 0 tokenize $G -p "a<|eos|>b" --no-special
is "a special token in the text is one" [ "$(cat "$out")" = "[70, 1, 71]" ]
go 0 tokenize $G -p "a<|eos|>b" --no-special --no-parse-special
is "or text (as the package has it with encode_special_tokens)" [ "$(cat "$out")" = "[70, 33, 97, 74, 880, 97, 35, 71]" ]
go 0 tokenize $G -p "<|eos|>" --no-parse-special
is "what the model wants around the text stays" [ "$(cut -c1-3 "$out")" = "[2," ]
# ---- and back ----
go 0 tokenize $G --decode --ids "$(tr -d '[] \n' <"$tmp/ids")" --no-special
is "decoded" [ "$(cat "$out")" = "Once upon a time" ]
go 0 tokenize $G --decode --ids "$(tr -d '[] \n' <"$tmp/ids")"
is "special tokens are shown" grep -q "^<.*>Once upon a time$" "$out"
for text in "naïve café — “quotes”" "日本語 🙂 x" "  two  spaces " "a	tab"; do
    go 0 tokenize $G -p "$text" --no-special
    go 0 tokenize $G --decode --ids "$(tr -d '[] \n' <"$out")"
    is "there and back: $text" [ "$(cat "$out")" = "$text" ]
done

# ---- many ----
printf '["Once upon a time", "", "x\\ny \\u00e9", "\\"q\\""]' >"$tmp/lines.json"
go 0 tokenize $G --lines "$tmp/lines.json"
keep many
is "JSON" valid_json "$out"
first=$(sed 's/^\[\(\[[^]]*\]\).*/\1/' "$out")
is "the first of them" [ "$first" = "$(cat "$tmp/ids")" ]
is "four of them" [ "$(grep -o '\[2' "$out" | wc -l)" = 4 ]
go 0 tokenize $G --lines "$tmp/many" --decode --no-special
is "and back" [ "$(cat "$out")" = '["Once upon a time", "", "x\ny é", "\"q\""]' ]
echo '[]' >"$tmp/none.json"
go 0 tokenize $G --lines "$tmp/none.json"
is "none" [ "$(cat "$out")" = "[]" ]

# ---- refusals ----
refused "4096" tokenize $G --decode --ids 5,4096
refused "2147483648" tokenize $G --decode --ids 2147483648
refused "empty" tokenize $G --decode --ids ""
for bad in '{}' '[1]' '["a"' '["\ud800"]' '[["a"]]' 'x' ''; do
    printf '%s' "$bad" >"$tmp/bad.json"
    refused "bad.json" tokenize $G --lines "$tmp/bad.json"
done
for bad in '["a"]' '[[1.5]]' '[[99999]]' '[[-1]]' '[1]'; do
    printf '%s' "$bad" >"$tmp/bad.json"
    refused "" tokenize $G --lines "$tmp/bad.json" --decode
done
refused "nothere" tokenize $G -f "$tmp/nothere"
refused "nothere" tokenize "$tmp/nothere" -p x
mkdir "$tmp/empty"
refused "tokenizer.json" tokenize "$tmp/empty" -p x
refused "directory" tokenize $G -f "$tmp/empty"
printf 'ab\377cd' >"$tmp/bytes"
go 1 tokenize $G -f "$tmp/bytes"
is "text that is not UTF-8" says "UTF-8"

# ---- the vocabulary of a GGUF file, when one was fetched ----
. tools/cache.sh
if [ -f "$smollm" ]; then
    go 0 tokenize "$smollm" -p "Once upon a time"
    keep ids
    is "ids" grep -qE '^\[[0-9]+(, [0-9]+)*\]$' "$out"
    go 0 tokenize "$smollm" --decode --ids "$(tr -d '[] \n' <"$out")"
    is "and back" [ "$(cat "$out")" = "Once upon a time" ]
    ln -s "$smollm" "$tmp/empty/model.gguf"
    go 0 tokenize "$tmp/empty" -p "Once upon a time"
    is "a folder that holds it" same "$out" "$tmp/ids"
else
    echo "skipped: SmolLM2 not fetched"
fi
finish
