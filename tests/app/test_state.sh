#!/bin/sh
# Saved states: a run that stops and goes on prints what one that never stopped does.
. "$(dirname "$0")/lib.sh" "$1"

ids() { tr -d '[] \n' <"$1"; }

# Twenty at once; ten, and ten more from the state, with other threads and another context.
for how in "--temperature 0" "--temperature 0.9 --seed 5 --repeat-penalty 1.2"; do
    for m in $G $D; do
        # shellcheck disable=SC2086
        go 0 run $m -p "Once upon a time" -n 90 --print-ids $how
        keep whole
        # shellcheck disable=SC2086
        go 0 run $m -p "Once upon a time" -n 75 --print-ids --save-state "$tmp/state" $how
        keep first
        # shellcheck disable=SC2086
        go 0 run $m --load-state "$tmp/state" -n 15 --print-ids --threads 3 --ctx 500 $how
        is "$m $how: the same ids" [ "$(ids "$tmp/first"),$(ids "$out")" = "$(ids "$tmp/whole")" ]
    done
done

# A prompt follows the state's tokens.
go 0 run $D --ids 5,6,7 -n 0 --save-state "$tmp/state"
go 0 run $D --load-state "$tmp/state" --ids 8,9 -n 5 --print-ids
keep after
go 0 run $D --ids 5,6,7,8,9 -n 5 --print-ids
is "as one prompt" same "$out" "$tmp/after"
go 0 run $D --load-state "$tmp/state" -p " and then" -n 5
is "text follows too" [ -s "$out" ]

# Blocks: what is saved is whole blocks, and they go on as the same blocks do in a prompt.
go 0 run $L -p "Once upon a time" -n 64 --save-state "$tmp/blocks"
go 0 run $L --load-state "$tmp/blocks" -n 32 --print-ids
is "a diffusion model goes on" [ -s "$out" ]

# ---- refusals ----
refused "another model" run $G --load-state "$tmp/state" -n 1
usage "precision" run $D --load-state "$tmp/state" -n 1 --precision exact
refused "none" run $D --load-state "$tmp/none" -n 1
head -c 1000 "$tmp/state" >"$tmp/short"
refused "cut short" run $D --load-state "$tmp/short" -n 1
refused "not a saved state" run $D --load-state $D/config.json -n 1
go 1 run $D --ids 5 -n 1 --save-state "$tmp/no/where"
is "stderr says where" says "no/where"
usage "--load-state" run $D --load-state
finish
