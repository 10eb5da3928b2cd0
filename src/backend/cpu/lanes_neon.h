/* 16 lanes as four NEON registers (lanes 0..3 in v[0]).  See lanes.h for what each function means.
 */
#ifndef MR_BACKEND_CPU_LANES_NEON_H
#define MR_BACKEND_CPU_LANES_NEON_H

#include <arm_neon.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define LANES_FN(name) name##_neon
#define LANES_NAME "neon"
enum { LANES_TILE_ROWS = 6, LANES_TILE_COLS = 1 };

typedef struct v16f {
    float32x4_t v[4];
} v16f;
typedef struct v16i {
    int32x4_t v[4];
} v16i;
typedef struct v16m {
    uint32x4_t v[4]; /* all bits of a lane */
} v16m;

/* One function over quarter h = 0..3. */
#define LANES_OP(type, name, args, expr)                                                           \
    static inline type name args                                                                   \
    {                                                                                              \
        type r;                                                                                    \
        _Pragma("GCC unroll 4") for (int h = 0; h < 4; h++) r.v[h] = (expr);                       \
        return r;                                                                                  \
    }

LANES_OP(v16f, v16f_load, (const float *p), vld1q_f32(p + 4 * h))
LANES_OP(v16i, v16i_load, (const int32_t *p), vld1q_s32(p + 4 * h))

static inline v16f v16f_loadn(const float *p, int n)
{
    float t[16] = {0};
    if (n > 0)
        memcpy(t, p, 4 * (size_t)(n < 16 ? n : 16));
    return v16f_load(t);
}

static inline v16i v16i_loadn(const int32_t *p, int n)
{
    int32_t t[16] = {0};
    if (n > 0)
        memcpy(t, p, 4 * (size_t)(n < 16 ? n : 16));
    return v16i_load(t);
}

LANES_OP(v16i, v16i_load_u16, (const uint16_t *p),
         vreinterpretq_s32_u32(vmovl_u16(vld1_u16(p + 4 * h))))
LANES_OP(v16f, v16f_load_bf16, (const uint16_t *p),
         vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * h), 16)))
LANES_OP(v16f, v16f_load_f16, (const uint16_t *p),
         vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * h))))

static inline v16i v16i_load_u8(const uint8_t *p)
{
    uint8x16_t b = vld1q_u8(p);
    uint16x8_t lo = vmovl_u8(vget_low_u8(b)), hi = vmovl_u8(vget_high_u8(b));
    return (v16i){{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(lo))),
                   vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(lo))),
                   vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(hi))),
                   vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(hi)))}};
}

static inline v16i v16i_load_i8(const int8_t *p)
{
    int8x16_t b = vld1q_s8(p);
    int16x8_t lo = vmovl_s8(vget_low_s8(b)), hi = vmovl_s8(vget_high_s8(b));
    return (v16i){{vmovl_s16(vget_low_s16(lo)), vmovl_s16(vget_high_s16(lo)),
                   vmovl_s16(vget_low_s16(hi)), vmovl_s16(vget_high_s16(hi))}};
}

static inline void v16f_store(float *p, v16f a)
{
    for (int h = 0; h < 4; h++)
        vst1q_f32(p + 4 * h, a.v[h]);
}

static inline void v16f_storen(float *p, v16f a, int n)
{
    float t[16];
    v16f_store(t, a);
    if (n > 0)
        memcpy(p, t, 4 * (size_t)(n < 16 ? n : 16));
}

static inline void v16i_store(int32_t *p, v16i a)
{
    for (int h = 0; h < 4; h++)
        vst1q_s32(p + 4 * h, a.v[h]);
}

static inline void v16i_storen(int32_t *p, v16i a, int n)
{
    int32_t t[16];
    v16i_store(t, a);
    if (n > 0)
        memcpy(p, t, 4 * (size_t)(n < 16 ? n : 16));
}

static inline void v16i_store_u16(uint16_t *p, v16i a)
{
    for (int h = 0; h < 4; h++)
        vst1_u16(p + 4 * h, vmovn_u32(vreinterpretq_u32_s32(a.v[h])));
}

static inline void v16i_store_i8(int8_t *p, v16i a)
{
    int16x8_t lo = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
    int16x8_t hi = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
}

LANES_OP(v16f, v16f_set1, (float a), vdupq_n_f32(a))
LANES_OP(v16f, v16f_add, (v16f a, v16f b), vaddq_f32(a.v[h], b.v[h]))
LANES_OP(v16f, v16f_sub, (v16f a, v16f b), vsubq_f32(a.v[h], b.v[h]))
LANES_OP(v16f, v16f_mul, (v16f a, v16f b), vmulq_f32(a.v[h], b.v[h]))
LANES_OP(v16f, v16f_div, (v16f a, v16f b), vdivq_f32(a.v[h], b.v[h]))
LANES_OP(v16f, v16f_sqrt, (v16f a), vsqrtq_f32(a.v[h]))
LANES_OP(v16f, v16f_fma, (v16f a, v16f b, v16f c), vfmaq_f32(c.v[h], a.v[h], b.v[h]))
LANES_OP(v16f, v16f_fnma, (v16f a, v16f b, v16f c), vfmsq_f32(c.v[h], a.v[h], b.v[h]))
LANES_OP(v16f, v16f_max, (v16f a, v16f b), vbslq_f32(vcgtq_f32(a.v[h], b.v[h]), a.v[h], b.v[h]))
LANES_OP(v16f, v16f_min, (v16f a, v16f b), vbslq_f32(vcltq_f32(a.v[h], b.v[h]), a.v[h], b.v[h]))
LANES_OP(v16f, v16f_rint, (v16f a), vrndnq_f32(a.v[h]))

LANES_OP(v16i, v16i_set1, (int32_t a), vdupq_n_s32(a))
LANES_OP(v16i, v16i_add, (v16i a, v16i b), vaddq_s32(a.v[h], b.v[h]))
LANES_OP(v16i, v16i_sub, (v16i a, v16i b), vsubq_s32(a.v[h], b.v[h]))
LANES_OP(v16i, v16i_mul, (v16i a, v16i b), vmulq_s32(a.v[h], b.v[h]))
LANES_OP(v16i, v16i_and, (v16i a, v16i b), vandq_s32(a.v[h], b.v[h]))
LANES_OP(v16i, v16i_lookup, (const uint8_t *p, v16i q),
         vreinterpretq_s32_u8(vqtbl1q_u8(vld1q_u8(p), vreinterpretq_u8_s32(q.v[h]))))
LANES_OP(v16i, v16i_or, (v16i a, v16i b), vorrq_s32(a.v[h], b.v[h]))
LANES_OP(v16i, v16i_xor, (v16i a, v16i b), veorq_s32(a.v[h], b.v[h]))
LANES_OP(v16i, v16i_shl, (v16i a, int n), vshlq_s32(a.v[h], vdupq_n_s32(n)))
LANES_OP(v16i, v16i_shr, (v16i a, int n),
         vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a.v[h]), vdupq_n_s32(-n))))
LANES_OP(v16i, v16i_sar, (v16i a, int n), vshlq_s32(a.v[h], vdupq_n_s32(-n)))
LANES_OP(v16i, v16i_max, (v16i a, v16i b), vmaxq_s32(a.v[h], b.v[h]))
LANES_OP(v16i, v16i_min, (v16i a, v16i b), vminq_s32(a.v[h], b.v[h]))

LANES_OP(v16i, v16i_from_f, (v16f a), vcvtnq_s32_f32(a.v[h]))
LANES_OP(v16f, v16f_from_i, (v16i a), vcvtq_f32_s32(a.v[h]))
LANES_OP(v16f, v16f_bits, (v16i a), vreinterpretq_f32_s32(a.v[h]))
LANES_OP(v16i, v16i_bits, (v16f a), vreinterpretq_s32_f32(a.v[h]))

LANES_OP(v16m, v16f_lt, (v16f a, v16f b), vcltq_f32(a.v[h], b.v[h]))
LANES_OP(v16m, v16f_le, (v16f a, v16f b), vcleq_f32(a.v[h], b.v[h]))
LANES_OP(v16m, v16f_eq, (v16f a, v16f b), vceqq_f32(a.v[h], b.v[h]))
LANES_OP(v16m, v16f_gt, (v16f a, v16f b), vcgtq_f32(a.v[h], b.v[h]))
LANES_OP(v16m, v16f_ge, (v16f a, v16f b), vcgeq_f32(a.v[h], b.v[h]))
LANES_OP(v16m, v16i_eq, (v16i a, v16i b), vceqq_s32(a.v[h], b.v[h]))
LANES_OP(v16m, v16i_gt, (v16i a, v16i b), vcgtq_s32(a.v[h], b.v[h]))
LANES_OP(v16m, v16m_and, (v16m a, v16m b), vandq_u32(a.v[h], b.v[h]))
LANES_OP(v16m, v16m_or, (v16m a, v16m b), vorrq_u32(a.v[h], b.v[h]))
LANES_OP(v16m, v16m_not, (v16m a), vmvnq_u32(a.v[h]))
LANES_OP(v16f, v16f_select, (v16m m, v16f a, v16f b), vbslq_f32(m.v[h], a.v[h], b.v[h]))
LANES_OP(v16i, v16i_select, (v16m m, v16i a, v16i b), vbslq_s32(m.v[h], a.v[h], b.v[h]))

/* As assembly: these files are compiled for CPUs without it. */
#define LANES_HAS_DOT
static inline v16f v16f_dot(v16f acc, v16i a, v16i b)
{
    for (int h = 0; h < 4; h++)
        __asm__(".arch_extension bf16\n\tbfdot %0.4s, %1.8h, %2.8h"
                : "+w"(acc.v[h])
                : "w"(a.v[h]), "w"(b.v[h]));
    return acc;
}

static inline v16m v16m_first(int n)
{
    static const int32_t lane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return v16i_gt(v16i_set1(n), v16i_load(lane));
}

static inline bool v16m_any(v16m m)
{
    uint32x4_t a = vorrq_u32(vorrq_u32(m.v[0], m.v[1]), vorrq_u32(m.v[2], m.v[3]));
    return vmaxvq_u32(a) != 0;
}

static inline float v16f_reduce_add(v16f a)
{
    float32x4_t s = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    float32x2_t t = vadd_f32(vget_low_f32(s), vget_high_f32(s));
    return vget_lane_f32(t, 0) + vget_lane_f32(t, 1);
}

static inline float32x4_t lanes_max4(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

static inline float v16f_reduce_max(v16f a)
{
    float32x4_t s = lanes_max4(lanes_max4(a.v[0], a.v[2]), lanes_max4(a.v[1], a.v[3]));
    float t[4];
    vst1q_f32(t, s);
    float x = t[0] > t[2] ? t[0] : t[2], y = t[1] > t[3] ? t[1] : t[3];
    return x > y ? x : y;
}

static inline void v16f_transpose(float *y, int64_t ldy, const float *x, int64_t ldx, int n)
{
    int i = 0;
    for (; i + 4 <= n; i += 4)
        for (int j = 0; j < 16; j += 4) { /* squares of 4 */
            const float *p = x + i * ldx + j;
            float *q = y + j * ldy + i;
            float32x4_t a = vld1q_f32(p), b = vld1q_f32(p + ldx), c = vld1q_f32(p + 2 * ldx);
            float32x4_t d = vld1q_f32(p + 3 * ldx);
            float32x4x2_t ab = vtrnq_f32(a, b), cd = vtrnq_f32(c, d);
            vst1q_f32(q, vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0])));
            vst1q_f32(q + ldy, vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1])));
            vst1q_f32(q + 2 * ldy,
                      vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0])));
            vst1q_f32(q + 3 * ldy,
                      vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1])));
        }
    for (; i < n; i++)
        for (int j = 0; j < 16; j++)
            y[j * ldy + i] = x[i * ldx + j];
}

#include "backend/cpu/lanes.h"

#endif
