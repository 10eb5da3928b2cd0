#!/bin/sh
# logits: the file, chunks, precision, edited graphs, passes left out.
. "$(dirname "$0")/lib.sh" "$1"

ids_of() { sed 's/.*"logits": {"ids": \[\([^]]*\)\].*/\1/' "tests/vectors/stories/$1.json" | tr -d ' '; }

# ---- the file ----
go 0 logits $G --ids 2,356,2880 --out "$tmp/a.npy"
is "nothing is printed" [ ! -s "$out" ]
is "nor on stderr" [ ! -s "$err" ]
is "magic" [ "$(head -c 6 "$tmp/a.npy" | tail -c 5)" = NUMPY ]
is "header" [ "$(head -c 128 "$tmp/a.npy" | tail -c 118 | tr -d ' \n')" = \
    "{'descr':'<f4','fortran_order':False,'shape':(3,4096),}" ]
is "size" [ "$(wc -c <"$tmp/a.npy")" = $((128 + 3 * 4096 * 4)) ]
echo "[2, 356,
 2880]" >"$tmp/ids.json"
go 0 logits $G --ids-file "$tmp/ids.json" --out "$tmp/b.npy"
is "--ids-file" same "$tmp/b.npy" "$tmp/a.npy"
go 0 logits $G --ids-file - --out "$tmp/c.npy" --help
"$M" logits $G --ids-file - --out "$tmp/c.npy" <"$tmp/ids.json"
is "--ids-file -" same "$tmp/c.npy" "$tmp/a.npy"
go 0 logits $G --ids 2,356,2880 --out /dev/stdout
is "--out /dev/stdout" same "$out" "$tmp/a.npy"
go 0 logits $G --ids 2,356,2880 --precision fast --out "$tmp/b.npy"
is "--precision is fast" same "$tmp/b.npy" "$tmp/a.npy"
go 0 logits $G --ids 2,356,2880 --precision exact --out "$tmp/b.npy"
is "exact is not" differ "$tmp/b.npy" "$tmp/a.npy"
go 0 logits $G --ids 2,356,2880 --precision native --out "$tmp/b.npy"

# ---- chunks, threads, passes, graphs: one text of bytes ----
for m in gemma3-stories deepseek-v3-stories; do
    ids=$(ids_of $m)
    for p in exact fast; do
        go 0 logits models/$m --ids "$ids" --precision $p --out "$tmp/whole.npy"
        for c in 1 7 63 64 1000000000; do
            go 0 logits models/$m --ids "$ids" --precision $p --chunk $c --out "$tmp/l.npy"
            is "$m $p --chunk $c" same "$tmp/l.npy" "$tmp/whole.npy"
        done
    done
    go 0 logits models/$m --ids "$ids" --threads 1 --out "$tmp/l.npy"
    is "$m --threads 1" same "$tmp/l.npy" "$tmp/whole.npy"
done
passes=$("$M" logits $G --ids 1 --out "$tmp/l.npy" --no-pass bogus 2>&1 | sed 's/.*passes are //; s/,//g')
is "passes are named: $passes" [ "$(echo "$passes" | wc -w)" -ge 5 ]
for m in $G $D $L; do
    ids=$(ids_of $(basename $m))
    go 0 logits $m --ids "$ids" --out "$tmp/whole.npy"
    all=
    for p in $passes; do
        go 0 logits $m --ids "$ids" --no-pass "$p" --out "$tmp/l.npy"
        is "$m --no-pass $p" same "$tmp/l.npy" "$tmp/whole.npy"
        all="$all --no-pass $p"
    done
    # shellcheck disable=SC2086
    go 0 logits $m --ids "$ids" $all --out "$tmp/l.npy"
    is "$m without any pass" same "$tmp/l.npy" "$tmp/whole.npy"
    for stage in built fused; do
        go 0 graph $m --stage $stage
        keep $stage.ir
        go 0 logits $m --ids "$ids" --graph "$tmp/$stage.ir" --out "$tmp/l.npy"
        is "$m --graph of stage $stage" same "$tmp/l.npy" "$tmp/whole.npy"
    done
    # One attribute: the eps of the first norm.
    sed '0,/eps=[0-9.e-]*/s//eps=0.5/' "$tmp/built.ir" >"$tmp/edited.ir"
    is "an attribute was edited" differ "$tmp/edited.ir" "$tmp/built.ir"
    go 0 logits $m --ids "$ids" --graph "$tmp/edited.ir" --out "$tmp/l.npy"
    is "$m: another eps, other logits" differ "$tmp/l.npy" "$tmp/whole.npy"
done

# ---- embeddings and images ----
V=tests/vectors/gemma3-vision
ids=$(sed 's/.*"ids": \[\([^]]*\)\], "image_spans".*/\1/' $V/case.json | tr -d ' ')
spans=$(sed 's/.*"image_spans": \[\[\([^"]*\)\]\], .*/\1/' $V/case.json | tr -d ' ' | sed 's/\],\[/;/g; s/,/-/g; s/;/,/g')
is "spans of the case: $spans" [ "$(echo "$spans" | tr -cd '0-9,-' | wc -c)" -gt 6 ]
go 0 logits $V --ids "$ids" --out "$tmp/text.npy"
go 0 logits $V --ids "$ids" --embeds $V/embeds.npy --out "$tmp/causal.npy"
is "--embeds takes the ids' place" differ "$tmp/causal.npy" "$tmp/text.npy"
go 0 logits $V --ids "$ids" --embeds $V/embeds.npy --image-spans "$spans" --out "$tmp/whole.npy"
is "--image-spans changes the mask" differ "$tmp/whole.npy" "$tmp/causal.npy"
for c in 1 7 20; do
    go 0 logits $V --ids "$ids" --embeds $V/embeds.npy --image-spans "$spans" --chunk $c --out "$tmp/l.npy"
    is "images with --chunk $c" same "$tmp/l.npy" "$tmp/whole.npy"
done
go 0 logits $V --ids "$ids" --image-spans 4-9,9-12 --out "$tmp/whole.npy"
go 0 logits $V --ids "$ids" --image-spans 4-12 --out "$tmp/l.npy"
is "spans that touch are one" same "$tmp/l.npy" "$tmp/whole.npy"
rm "$tmp/l.npy"
for bad in '' 5 5- 5-5 9-5 -1-4 5-12, 5-12,,20-22 5-12,11-20 20-22,5-12 0-9999 1-2x 1-99999999999999999999; do
    go 2 logits $V --ids "$ids" --image-spans="$bad" --out "$tmp/l.npy"
done
head -c 200 $V/embeds.npy >"$tmp/cut.npy"
refused "cut.npy" logits $V --ids "$ids" --embeds "$tmp/cut.npy" --out "$tmp/l.npy"
refused "(56, 80) is needed" logits $V --ids "$ids" --embeds $V/logits.npy --out "$tmp/l.npy"
refused "(2, 80) is needed" logits $V --ids 1,2 --embeds $V/embeds.npy --out "$tmp/l.npy"
refused "not a .npy file" logits $V --ids "$ids" --embeds $V/case.json --out "$tmp/l.npy"
for edit in 's/<f4/<f8/' 's/False/True /' "s/'descr'/'other'/" 's/{/[/' 's/, }/   /' 's/(56/(65/' 's/NUMPY./NUMPY\x04/'; do
    LC_ALL=C sed "1$edit" $V/embeds.npy >"$tmp/edited.npy"
    is "$edit edits" differ "$tmp/edited.npy" $V/embeds.npy
    refused "edited.npy" logits $V --ids "$ids" --embeds "$tmp/edited.npy" --out "$tmp/l.npy"
done
refused "span" logits $L --ids 1,2 --image-spans 0-2 --out "$tmp/l.npy"
is "no file was left" [ ! -e "$tmp/l.npy" ]

# ---- edited graphs that are wrong ----
rm -f "$tmp/l.npy"
go 0 graph $G --stage built
keep built.ir
head -n 20 "$tmp/built.ir" >"$tmp/cut.ir"
refused "cut.ir" logits $G --ids 1,2 --graph "$tmp/cut.ir" --out "$tmp/l.npy"
sed 's/rmsnorm/rmsgnome/' "$tmp/built.ir" >"$tmp/op.ir"
refused "rmsgnome" logits $G --ids 1,2 --graph "$tmp/op.ir" --out "$tmp/l.npy"
: >"$tmp/empty.ir"
refused "empty.ir" logits $G --ids 1,2 --graph "$tmp/empty.ir" --out "$tmp/l.npy"
refused "nowhere.ir" logits $G --ids 1,2 --graph "$tmp/nowhere.ir" --out "$tmp/l.npy"
go 0 graph $D --stage built
keep other.ir
refused "" logits $G --ids 1,2 --graph "$tmp/other.ir" --out "$tmp/l.npy" # another model's tensors

# ---- refusals leave no file ----
refused "4096" logits $G --ids 1,4096 --out "$tmp/l.npy"
refused "99999999999" logits $G --ids 1,99999999999 --out "$tmp/l.npy"
refused "-1" logits $G --ids=-1 --out "$tmp/l.npy"
refused "empty" logits $G --ids "" --out "$tmp/l.npy"
refused "ids.json" logits $G --ids-file "$tmp/no/ids.json" --out "$tmp/l.npy"
for bad in '[]' '{}' '[1, 2' '[1.5]' '["a"]' '[[1, 2]]' '[1, -1]' '[1] 2' ''; do
    printf '%s' "$bad" >"$tmp/bad.json"
    refused "bad.json" logits $G --ids-file "$tmp/bad.json" --out "$tmp/l.npy"
done
awk 'BEGIN {printf "[1"; for (i = 0; i < 1024; i++) printf ",5"; print "]"}' >"$tmp/long.json"
refused "dynamic" logits tests/vectors/llama-dynamic-relu2 --ids-file "$tmp/long.json" --out "$tmp/l.npy"
refused "l.npy" logits $G --ids 1 --out "$tmp/no/l.npy"
if [ -w /dev/full ]; then refused "/dev/full" logits $G --ids 1 --out /dev/full; fi
is "no file was left" [ ! -e "$tmp/l.npy" ]
is "nor a temporary one" [ -z "$(find "$tmp" -name '*tmp-*')" ]
echo kept >"$tmp/l.npy"
refused "4096" logits $G --ids 1,4096 --out "$tmp/l.npy"
is "what was there stays" [ "$(cat "$tmp/l.npy")" = kept ]
go 0 logits $G --ids-file "$tmp/long.json" --out "$tmp/long.npy" # beyond its 1024 positions
finish
