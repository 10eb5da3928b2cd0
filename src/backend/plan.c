/* Names that plans and backends share. */
#include "backend/backend.h"

#include <assert.h>

const char *mr_precision_name(mr_precision p)
{
    static const char *const names[] = {"exact", "fast", "native"};
    assert(p >= MR_EXACT && p <= MR_NATIVE);
    return names[p];
}
