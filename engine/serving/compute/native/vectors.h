/* Vectors of floats in plain C with GCC's extensions: they become AVX2, AVX-512 or NEON, whichever -march=native has.
 * Activations are float32 throughout; weights and the cache keep their own dtype. A bfloat16 is the upper half of a
 * float32, so that a shift or a mask is the whole conversion.
 */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define PANEL 16
#define PARTS (PANEL / LANES)
#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t vi __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES), aligned(2)));
typedef int8_t vb __attribute__((vector_size(LANES), aligned(1)));

enum { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

INLINE vf widened(vh bits) { return (vf)(__builtin_convertvector(bits, vu) << 16); }

/* Compilers make single instructions of most things here, but not of this. */
INLINE vf narrow(const int8_t *at) {
#if defined(__AVX512F__)
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)at)));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)at)));
#else
    return __builtin_convertvector(*(const vb *)at, vf);
#endif
}

/* Not {0} + x, which is an addition: 0 + -0 is 0. */
INLINE vf splat(float x) {
#ifdef __AVX512F__
    return (vf){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#else
    return (vf){x, x, x, x, x, x, x, x};
#endif
}

/* C has no choice between vectors; a comparison is all ones or all zeros. */
INLINE vf chosen(vi which, vf yes, vf no) { return (vf)((which & (vi)yes) | (~which & (vi)no)); }

/* Cephes' expf: 2^n times a polynomial; about two units in the last place. */
INLINE vf exponential(vf x) {
    const vf low = splat(-87.0f), high = splat(88.0f);
    x = chosen(x < low, low, x);
    x = chosen(x > high, high, x);
    vf scaled = x * 1.44269504f;
    vi n = __builtin_convertvector(scaled + chosen(scaled < splat(0.0f), splat(-0.5f), splat(0.5f)), vi);
    vf whole = __builtin_convertvector(n, vf);
    vf r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vf p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return (p * r * r + r + 1.0f) * (vf)((n + 127) << 23);
}

INLINE float total(vf x) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)x);
#elif defined(__AVX2__)
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
#else
    float sum = 0.0f;
    for (int lane = 0; lane < LANES; lane++) sum += x[lane];
    return sum;
#endif
}
