/* millrace bench: what its files share: cmd_bench.c options, bench_measure.c, bench_report.c. */
#ifndef MILLRACE_BENCH_H
#define MILLRACE_BENCH_H

#include "app.h"

enum { BENCH_MAX_RUNS = 1000, BENCH_MAX_BATCH = 1024 };

typedef struct bench_series {
    double rate[BENCH_MAX_RUNS]; /* tokens/s, all streams together */
    int n;
    double median, low, high;
    int64_t rows;         /* tokens of one run */
    double limit_seconds; /* the least that the machine's limits allow for a run; 0: not known */
} bench_series;

typedef struct bench {
    app_engine engine;
    int64_t p, n, r, batch, depth;
    bool json, profile;
    mr_engine *e;
    int32_t *ids; /* [n_ids]: what streams are fed, each from a place of its own */
    int64_t n_ids;
    float *logits;       /* of all streams' rows */
    mr_session **stream; /* [batch] */
    mr_feed *feed;       /* [batch] */
    bench_series prefill, decode;
    uint64_t resident; /* bytes, the most seen behind a run; 0: not known */
    mr_limits limits;
    mr_profile_row *rows; /* of one run of each more */
    int n_rows;
} bench;

mr_status bench_open(bench *b, const char *model);
mr_status bench_measure(bench *b);
void bench_close(bench *b);
int bench_report(const bench *b);
/* The least seconds that the limits allow for a row's work: bytes and products overlap. */
double bench_limit_seconds(const mr_limits *l, const mr_profile_row *r);

#endif
