# Where fetched files live; sourced by the scripts.
cache=${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}
smollm=$cache/SmolLM2-135M-Instruct.Q4_1.gguf
smollm_sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
