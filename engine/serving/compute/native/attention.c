/* Attention of single new tokens over the paged cache, and what is put into it. */
#include "vectors.h"

#define CHUNK 128     /* tokens of the past that are scored at a time */
#define MAX_GROUP 16  /* query heads that share a key head */
#define MAX_HEAD 256
#define TOGETHER 4      /* query heads whose sums are held in registers */

typedef struct {
    const void *keys, *values; /* [blocks, size, key heads, head] */
    const int64_t *tables;     /* [rows, width]: each row's blocks in order */
    const int64_t *lengths;    /* [rows]: how many tokens each sees, its own included */
    int64_t rows, width, size, heads, key_heads, head;
    int32_t kind; /* FLOAT32 or BFLOAT16: the cache's dtype */
} Past;

INLINE vf read_cache(int kind, const void *at, int64_t index) {
    return kind == BFLOAT16 ? widened(*(const vh *)((const uint16_t *)at + index)) : *(const vf *)((const float *)at + index);
}

/* scores[many][count] of the tokens at `places`: each key is read and widened once for all the heads that share it. */
INLINE void score(const int many, const int kind, const void *keys, const int64_t *places, int64_t count, int64_t head,
                  float root, const float *query, float scores[][CHUNK]) {
    for (int64_t t = 0; t < count; t++) {
        vf dots[TOGETHER];
        for (int i = 0; i < many; i++) dots[i] = splat(0.0f);
        for (int64_t d = 0; d < head; d += LANES) {
            const vf key = read_cache(kind, keys, places[t] + d);
            for (int i = 0; i < many; i++) dots[i] += key * *(const vf *)(query + i * head + d);
        }
        for (int i = 0; i < many; i++) scores[i][t] = total(dots[i]) * root;
    }
}

/* sums[many][head] += shares[many][count] times the values at `places`; two vectors of a head at a time. */
INLINE void gather(const int many, const int kind, const void *values, const int64_t *places, int64_t count, int64_t head,
                   float shares[][CHUNK], float sums[][MAX_HEAD]) {
    for (int64_t d = 0; d < head; d += 16) {
        vf held[TOGETHER][PARTS];
        for (int i = 0; i < many; i++)
            for (int part = 0; part < PARTS; part++) held[i][part] = *(vf *)&sums[i][d + part * LANES];
        for (int64_t t = 0; t < count; t++)
            for (int part = 0; part < PARTS; part++) {
                const vf value = read_cache(kind, values, places[t] + d + part * LANES);
                for (int i = 0; i < many; i++) held[i][part] += value * shares[i][t];
            }
        for (int i = 0; i < many; i++)
            for (int part = 0; part < PARTS; part++) *(vf *)&sums[i][d + part * LANES] = held[i][part];
    }
}

/* Scores over a chunk become shares of the softmax, with a running maximum (Milakov and Gimelshein 2018): returns by how
 * much what was summed so far shrinks, and adds to `weight`. */
INLINE float soften(float *scores, int64_t count, float *most, float *weight) {
    float top = *most;
    for (int64_t t = 0; t < count; t++) top = scores[t] > top ? scores[t] : top;
    const float shrink = *most == -INFINITY ? 0.0f : expf(*most - top);
    vf whole = splat(0.0f);
    for (int64_t t = count; t % LANES; t++) scores[t] = top;
    for (int64_t t = 0; t < count; t += LANES) *(vf *)(scores + t) = exponential(*(const vf *)(scores + t) - top);
    for (int64_t t = count; t % LANES; t++) scores[t] = 0.0f;
    for (int64_t t = 0; t < count; t += LANES) whole += *(const vf *)(scores + t);
    *weight = *weight * shrink + total(whole);
    *most = top;
    return shrink;
}

#define TIMES_MANY(call)                         \
    switch (many) {                              \
    case 1: call(1); break;                      \
    case 2: call(2); break;                      \
    case 3: call(3); break;                      \
    default: call(TOGETHER);                     \
    }

/* One key head of one row, in chunks of its past. */
INLINE void attend_head(const int kind, const Past *past, int64_t row, int64_t key_head, const float *query, float *out) {
    const int64_t head = past->head, group = past->heads / past->key_heads, length = past->lengths[row];
    const int64_t *table = past->tables + row * past->width;
    const int64_t step = past->key_heads * head;
    const float root = 1.0f / sqrtf((float)head);
    float scores[MAX_GROUP][CHUNK] __attribute__((aligned(64)));
    float sums[MAX_GROUP][MAX_HEAD] __attribute__((aligned(64)));
    float most[MAX_GROUP], weight[MAX_GROUP];
    int64_t places[CHUNK];
    for (int64_t g = 0; g < group; g++) {
        most[g] = -INFINITY, weight[g] = 0.0f;
        memset(sums[g], 0, (size_t)head * sizeof(float));
    }
    for (int64_t start = 0; start < length; start += CHUNK) {
        const int64_t count = length - start < CHUNK ? length - start : CHUNK;
        for (int64_t t = 0; t < count; t++) {
            const int64_t at = start + t;
            places[t] = (table[at / past->size] * past->size + at % past->size) * step + key_head * head;
        }
        for (int64_t g = 0; g < group; g += TOGETHER) {
            const int64_t many = group - g < TOGETHER ? group - g : TOGETHER;
#define SCORE(n) score(n, kind, past->keys, places, count, head, root, query + g * head, scores + g)
#define GATHER(n) gather(n, kind, past->values, places, count, head, scores + g, sums + g)
            TIMES_MANY(SCORE)
            for (int64_t i = g; i < g + many; i++) {
                const float shrink = soften(scores[i], count, &most[i], &weight[i]);
                for (int64_t d = 0; d < head; d += LANES) *(vf *)&sums[i][d] *= shrink;
            }
            TIMES_MANY(GATHER)
        }
    }
    for (int64_t g = 0; g < group; g++)
        for (int64_t d = 0; d < head; d += LANES) *(vf *)(out + g * head + d) = *(vf *)&sums[g][d] / weight[g];
}

/* query [rows, heads, head], rows `stride` numbers apart -> out [rows, heads, head], contiguous. */
void attend(const Past *past, const float *query, int64_t stride, float *out, int32_t threads) {
    const int64_t each = past->heads / past->key_heads * past->head;
#pragma omp parallel for collapse(2) schedule(dynamic, 1) num_threads(threads) if (threads > 1 && past->rows > 1)
    for (int64_t row = 0; row < past->rows; row++)
        for (int64_t key_head = 0; key_head < past->key_heads; key_head++) {
            const float *mine = query + row * stride + key_head * each;
            float *to = out + (row * past->key_heads + key_head) * each;
            if (past->kind == BFLOAT16)
                attend_head(BFLOAT16, past, row, key_head, mine, to);
            else
                attend_head(FLOAT32, past, row, key_head, mine, to);
        }
}

/* Rounds to the nearest bfloat16, to the even one of two; what is not a number stays none. */
INLINE uint16_t rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t up = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : up);
}

/* Puts rows of `width` numbers, `stride` apart, at `slots` of a cache's layer. */
void store(const float *x, int64_t stride, int64_t rows, int64_t width, const int64_t *slots, void *cache, int32_t kind) {
    for (int64_t row = 0; row < rows; row++, x += stride) {
        if (kind == BFLOAT16) {
            uint16_t *to = (uint16_t *)cache + slots[row] * width;
            for (int64_t k = 0; k < width; k++) to[k] = rounded(x[k]);
        } else
            memcpy((float *)cache + slots[row] * width, x, (size_t)width * sizeof(float));
    }
}
