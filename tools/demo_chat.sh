#!/bin/sh
# Fetches SmolLM2-135M-Instruct once and asks it a question through its chat template.  Usage: tools/demo_chat.sh MILLRACE [QUESTION]
set -eu
here=$(dirname "$0")
. "$here/cache.sh"
sh "$here/fetch.sh" model
question=${2:-What is the capital of France?}
echo "> $question"
exec "$1" run "$smollm" --chat -p "$question" -n 100 --stats
