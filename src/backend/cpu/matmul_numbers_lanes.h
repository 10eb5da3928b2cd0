/* 16 numbers of the type that a file has scales and biases in: F32, F16 or BF16. */
#ifndef MR_BACKEND_CPU_MATMUL_NUMBERS_LANES_H
#define MR_BACKEND_CPU_MATMUL_NUMBERS_LANES_H

#include "tensor/tensor.h"

LANES_INLINE v16f load_numbers(const uint8_t *p, mr_dtype t)
{
    if (t == MR_BF16)
        return v16f_load_bf16((const uint16_t *)(const void *)p);
    if (t == MR_F16)
        return v16f_load_f16((const uint16_t *)(const void *)p);
    return v16f_load((const float *)(const void *)p);
}

#endif
