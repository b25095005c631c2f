/* Products of a few rows or many with packed weights, norms and rotations.
 *
 * Packed weights: panels of 16 outputs. float32 and int8: [inputs][16]. bfloat16: [inputs / 2][16] words of 32 bits, the
 * even input's bits low, the odd one's high.
 */
#include "vectors.h"

#define ROWS 6        /* rows computed together: as many accumulators as AVX2's registers hold */
#define ROW_BLOCK 96  /* rows whose inputs stay in the second-level cache while all weights pass */
#define WORTH_SHARING 200000  /* multiplications that are worth waking other threads for */

enum { PLAIN = 0, PLUS = 1, TIMES = 2, SWISH = 3, GELU = 4 };

typedef struct {
    const void *weight;
    const float *scale; /* int8 only: one a output */
    const float *bias;  /* or NULL */
    int64_t inputs, outputs;
    int32_t kind;
} Product;

/* A part of the 16 weights of an input, widened: the even or the odd one of the pair at `weight`. */
INLINE vf weights(const int kind, const char *weight, const int odd, const int part) {
    if (kind == BFLOAT16) {
        const vu bits = *(const vu *)(weight + 4 * LANES * part);
        return odd ? (vf)(bits & 0xffff0000u) : (vf)(bits << 16);
    }
    if (kind == INT8) return narrow((const int8_t *)weight + odd * PANEL + part * LANES);
    return *(const vf *)((const float *)weight + odd * PANEL + part * LANES);
}

/* out[rows][16] of one panel, before what follows. A few rows have two sums each, for one would wait for itself. */
INLINE void panel(const int rows, const int kind, const float *x, int64_t stride, const void *weight, int64_t inputs,
                  float out[][PANEL]) {
    const int sets = rows > 3 ? 1 : 2;
    vf sums[2][ROWS][PARTS];
    for (int r = 0; r < rows; r++)
        for (int part = 0; part < PARTS; part++) sums[0][r][part] = sums[1][r][part] = splat(0.0f);
    const int pair = 2 * PANEL * (kind == FLOAT32 ? 4 : kind == BFLOAT16 ? 2 : 1);
    const char *at = weight;
    for (int64_t k = 0; k < inputs; k += 2, at += pair)
        for (int odd = 0; odd < 2; odd++) {
            vf w[PARTS];
            for (int part = 0; part < PARTS; part++) w[part] = weights(kind, at, odd, part);
            for (int r = 0; r < rows; r++) {
                const vf value = splat(x[r * stride + k + odd]);
                for (int part = 0; part < PARTS; part++) sums[sets > 1 ? odd : 0][r][part] += w[part] * value;
            }
        }
    for (int r = 0; r < rows; r++)
        for (int part = 0; part < PARTS; part++) *(vf *)&out[r][part * LANES] = sums[0][r][part] + sums[1][r][part];
}

#define OF_KIND(rows)                                                                       \
    (kind == BFLOAT16 ? panel(rows, BFLOAT16, x, stride, weight, inputs, out)               \
     : kind == INT8   ? panel(rows, INT8, x, stride, weight, inputs, out)                   \
                      : panel(rows, FLOAT32, x, stride, weight, inputs, out))

static void panel_of(int rows, int kind, const float *x, int64_t stride, const void *weight, int64_t inputs,
                     float out[][PANEL]) {
    switch (rows) {
    case 1: OF_KIND(1); break;
    case 2: OF_KIND(2); break;
    case 3: OF_KIND(3); break;
    case 4: OF_KIND(4); break;
    case 5: OF_KIND(5); break;
    default: OF_KIND(ROWS);
    }
}

/* What follows a product, in the same pass; `other` is the residual or the factor. */
INLINE void follow(int after, const Product *product, int64_t first, int64_t valid, float *sums, const float *other,
                   float *out) {
    for (int part = 0; part < PARTS; part++) {
        vf y = *(vf *)(sums + part * LANES);
        if (valid == PANEL) {
            const int64_t at = first + part * LANES;
            if (product->scale) y *= *(const vf *)(product->scale + at);
            if (product->bias) y += *(const vf *)(product->bias + at);
            if (after == PLUS) y += *(const vf *)(other + part * LANES);
            if (after == TIMES) y *= *(const vf *)(other + part * LANES);
            if (after == SWISH) y = y / (1.0f + exponential(-y));
        }
        *(vf *)(sums + part * LANES) = y;
    }
    for (int64_t n = 0; n < valid; n++) {
        float y = sums[n];
        if (valid != PANEL) {
            if (product->scale) y *= product->scale[first + n];
            if (product->bias) y += product->bias[first + n];
            if (after == PLUS) y += other[n];
            if (after == TIMES) y *= other[n];
            if (after == SWISH) y = y / (1.0f + expf(-y));
        }
        if (after == GELU) y = 0.5f * y * (1.0f + erff(y * 0.70710678f));
        out[n] = y;
    }
}

/* x [rows, inputs] -> out [rows, outputs], both contiguous. */
void product(const Product *product, const float *x, int64_t rows, const float *other, float *out, int32_t after,
             int32_t threads) {
    const int64_t inputs = product->inputs, outputs = product->outputs, panels = (outputs + PANEL - 1) / PANEL;
    const int64_t size = product->kind == FLOAT32 ? 4 : product->kind == BFLOAT16 ? 2 : 1;
#pragma omp parallel num_threads(threads) if (threads > 1 && rows * inputs * outputs > WORTH_SHARING)
    for (int64_t block = 0; block < rows; block += ROW_BLOCK) {
        const int64_t end = block + ROW_BLOCK < rows ? block + ROW_BLOCK : rows;
#pragma omp for schedule(static) nowait
        for (int64_t p = 0; p < panels; p++) {
            const void *weight = (const char *)product->weight + p * PANEL * inputs * size;
            const int64_t first = p * PANEL, valid = outputs - first < PANEL ? outputs - first : PANEL;
            for (int64_t row = block; row < end; row += ROWS) {
                const int count = end - row < ROWS ? (int)(end - row) : ROWS;
                float sums[ROWS][PANEL] __attribute__((aligned(64)));
                panel_of(count, product->kind, x + row * inputs, inputs, weight, inputs, sums);
                for (int r = 0; r < count; r++) {
                    const int64_t at = (row + r) * outputs + first;
                    follow(after, product, first, valid, sums[r], other ? other + at : 0, out + at);
                }
            }
        }
    }
}

/* Root mean square norm (Zhang and Sennrich 2019) of x [rows, width], width a multiple of LANES. */
void norm(const float *x, const float *weight, float eps, int64_t rows, int64_t width, float *out) {
    for (int64_t row = 0; row < rows; row++, x += width, out += width) {
        vf squares = splat(0.0f);
        for (int64_t k = 0; k < width; k += LANES) {
            const vf part = *(const vf *)(x + k);
            squares += part * part;
        }
        const float scale = 1.0f / sqrtf(total(squares) / (float)width + eps);
        for (int64_t k = 0; k < width; k += LANES)
            *(vf *)(out + k) = *(const vf *)(x + k) * scale * *(const vf *)(weight + k);
    }
}

/* Turns the first `heads` heads of x [rows, all, head] in place: x * cos + (its halves exchanged) * sin (Su et al. 2021);
 * cos, sin [rows, head], rows `stride` numbers apart. */
void rotate(float *x, const float *cos, const float *sin, int64_t stride, int64_t rows, int64_t all, int64_t heads,
            int64_t head) {
    const int64_t half = head / 2;
    for (int64_t row = 0; row < rows; row++, cos += stride, sin += stride)
        for (int64_t h = 0; h < heads; h++) {
            float *at = x + (row * all + h) * head;
            for (int64_t d = 0; d < half; d += 8) {
                float low[8], high[8];
                for (int i = 0; i < 8; i++) {
                    const float a = at[d + i], b = at[half + d + i];
                    low[i] = a * cos[d + i] + b * sin[d + i];
                    high[i] = b * cos[half + d + i] + a * sin[half + d + i];
                }
                memcpy(at + d, low, sizeof low);
                memcpy(at + half + d, high, sizeof high);
            }
        }
}
