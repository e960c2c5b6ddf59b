/* What a training step does number by number, each in one pass over memory: dropout, the loss's gradient, and the
 * optimizers with L1 and decay. By torch's operations these are ten to fifteen passes. And the products of many small
 * matrices, which torch leaves to a library that uses half of what some processors can do. The formulas are those of
 * `regularizers.py`, `engines.py` and `optimizers.py`, which the tests hold them to; everything else is left to torch.
 *
 * The file includes itself once for each type that numbers are stored in, as C has no templates. Arrays of a population
 * are [slots, ...], and a slot's numbers lie side by side. No function allocates, fails or starts threads.
 */

#ifndef STORED

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float widened(uint16_t stored) {
    const uint32_t bits = (uint32_t)stored << 16;
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

/* To the nearest, and to even in between, as torch rounds. */
static inline uint16_t narrowed(float number) {
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline int32_t product(int32_t a, uint32_t b) { return (int32_t)((uint32_t)a * b); }

/* The noise of elements 2i and 2i + 1, in the lower and the upper half: see `Dropout`. */
static inline int32_t noise(int64_t i, int32_t key) {
    int32_t word = product((int32_t)i, 0x9E3779B1u);
    word = product(word ^ (word >> 16), 0x7FEB352Du);
    word = product(word ^ key, 0x7FEB352Du);
    return product(word ^ (word >> 15), 0x846CA68Bu);
}

/* 15 bits of it, with sign. */
static inline int32_t lower(int32_t word) { return product(word, 1u << 16) >> 17; }
static inline int32_t upper(int32_t word) { return word >> 17; }

enum { ADAM, ADAMW, SGD };

/* A product is computed in tiles of ROWS by two vectors, as many as there are registers for. With AVX-512 that is up to
 * twice as fast as the library that torch calls; with narrower vectors it is not, and is left out. */
#ifdef __AVX512F__
#define PRODUCTS
enum { VECTOR_BYTES = 64, ROWS = 8 };
#endif

#define STORED float
#define NUMBER float
#define NAMED(name) name##_float32
#define LOADED(x) (x)
#define KEPT(x) (x)
#define ROOT sqrtf
#define POWER expf
#include "kernels.c"

#define STORED double
#define NUMBER double
#define NAMED(name) name##_float64
#define LOADED(x) (x)
#define KEPT(x) (x)
#define ROOT sqrt
#define POWER exp
#include "kernels.c"

#undef PRODUCTS
#define STORED uint16_t
#define NUMBER float
#define NAMED(name) name##_bfloat16
#define LOADED(x) widened(x)
#define KEPT(x) narrowed(x)
#define ROOT sqrtf
#define POWER expf
#include "kernels.c"

#else

/* y = x times 0 where noise is below the slot's bound, and times its scale elsewhere. x, y [slots, count]. */
void NAMED(drop)(const STORED *restrict x, STORED *restrict y, int64_t slots, int64_t count,
                 const int32_t *restrict keys, const int16_t *restrict bounds, const STORED *restrict scales) {
    for (int64_t slot = 0; slot < slots; slot++, x += count, y += count) {
        const int32_t key = keys[slot], bound = bounds[slot];
        const NUMBER scale = LOADED(scales[slot]);
        const int64_t pairs = count / 2;
        for (int64_t i = 0; i < pairs; i++) {
            const int32_t word = noise(i, key);
            y[2 * i] = KEPT(LOADED(x[2 * i]) * (lower(word) < bound ? 0 : scale));
            y[2 * i + 1] = KEPT(LOADED(x[2 * i + 1]) * (upper(word) < bound ? 0 : scale));
        }
        if (count % 2)
            y[count - 1] = KEPT(LOADED(x[count - 1]) * (lower(noise(pairs, key)) < bound ? 0 : scale));
    }
}

/* The derivative of the mean cross-entropy of `batch` examples, as many as one slot has, by its logits: softmax minus the
 * one right answer. logits, result [examples, classes]; those of all slots one after the other. */
void NAMED(loss)(const STORED *restrict logits, const int64_t *restrict targets, STORED *restrict result,
                 int64_t examples, int64_t classes, int64_t batch) {
    for (int64_t example = 0; example < examples; example++, logits += classes, result += classes) {
        NUMBER largest = LOADED(logits[0]), sum = 0;
        for (int64_t i = 1; i < classes; i++)
            largest = LOADED(logits[i]) > largest ? LOADED(logits[i]) : largest;
        for (int64_t i = 0; i < classes; i++)
            sum += POWER(LOADED(logits[i]) - largest);
        for (int64_t i = 0; i < classes; i++) {
            const NUMBER share = POWER(LOADED(logits[i]) - largest) / sum;
            result[i] = KEPT((share - (i == targets[example])) / (NUMBER)batch);
        }
    }
}

#ifdef PRODUCTS

typedef NUMBER NAMED(vector) __attribute__((vector_size(VECTOR_BYTES)));
enum { NAMED(lanes) = VECTOR_BYTES / sizeof(NUMBER), NAMED(width) = 2 * NAMED(lanes) };

/* `rows` (a constant wherever this is called) times `width` numbers of a product: c = a b + bias. */
static inline __attribute__((always_inline)) void NAMED(tile)(int rows, int64_t inner, const NUMBER *a, int64_t a_row,
                                                              int64_t a_column, const NUMBER *b, int64_t b_row,
                                                              const NUMBER *bias, NUMBER *c, int64_t c_row) {
    NAMED(vector) sums[ROWS][2], left, right;
    for (int row = 0; row < rows; row++)
        memcpy(sums[row], bias, sizeof sums[row]);
    for (int64_t k = 0; k < inner; k++) {
        memcpy(&left, b + k * b_row, sizeof left);
        memcpy(&right, b + k * b_row + NAMED(lanes), sizeof right);
        for (int row = 0; row < rows; row++) {
            const NUMBER factor = a[row * a_row + k * a_column];
            sums[row][0] += factor * left;
            sums[row][1] += factor * right;
        }
    }
    for (int row = 0; row < rows; row++)
        memcpy(c + row * c_row, sums[row], sizeof sums[row]);
}

/* panel [k, width] = b [k, wide], filled up with zeros. */
static inline __attribute__((always_inline)) void NAMED(pack)(int64_t k, int64_t wide, const NUMBER *restrict b,
                                                              int64_t b_row, int64_t b_column, NUMBER *restrict panel) {
    if (wide == NAMED(width)) {
        for (int64_t i = 0; i < k; i++)
            for (int64_t j = 0; j < NAMED(width); j++)
                panel[i * NAMED(width) + j] = b[i * b_row + j * b_column];
        return;
    }
    memset(panel, 0, sizeof(NUMBER) * k * NAMED(width));
    for (int64_t j = 0; j < wide; j++)
        for (int64_t i = 0; i < k; i++)
            panel[i * NAMED(width) + j] = b[i * b_row + j * b_column];
}

/* c = a b + bias for each slot: c [slots, m, n] without gaps, bias [slots, n] or NULL. Slots of a, b and bias are so many
 * numbers apart; a [m, k] has strides of its own; b is [k, n], or [n, k] if it is to be transposed, without gaps.
 * `panel` [k, width] is room for what of b is not in order. */
void NAMED(multiply)(int64_t slots, int64_t m, int64_t n, int64_t k, const NUMBER *a, int64_t a_slot, int64_t a_row,
                     int64_t a_column, const NUMBER *b, int64_t b_slot, int64_t transposed, const NUMBER *bias,
                     int64_t bias_slot, NUMBER *c, NUMBER *panel) {
    enum { width = NAMED(width) };
    for (int64_t slot = 0; slot < slots; slot++, a += a_slot, b += b_slot, c += m * n) {
        for (int64_t column = 0; column < n; column += width) {
            const int64_t wide = n - column < width ? n - column : width;
            const NUMBER *own = b + column;
            int64_t own_row = n;
            if (transposed || wide < width) {
                if (transposed)
                    NAMED(pack)(k, wide, b + column * k, 1, k, panel);
                else
                    NAMED(pack)(k, wide, own, n, 1, panel);
                own = panel, own_row = width;
            }
            NUMBER start[width] = {0}, edge[ROWS * width];
            if (bias)
                memcpy(start, bias + slot * bias_slot + column, sizeof(NUMBER) * wide);
            for (int64_t row = 0, rows; row < m; row += rows) {
                rows = m - row < ROWS ? 1 : ROWS;
                const NUMBER *from = a + row * a_row;
                NUMBER *to = wide < width ? edge : c + row * n + column;
                const int64_t to_row = wide < width ? width : n;
                if (rows == 1)
                    NAMED(tile)(1, k, from, a_row, a_column, own, own_row, start, to, to_row);
                else
                    NAMED(tile)(ROWS, k, from, a_row, a_column, own, own_row, start, to, to_row);
                for (int64_t i = 0; wide < width && i < rows; i++)
                    memcpy(c + (row + i) * n + column, edge + i * width, sizeof(NUMBER) * wide);
            }
        }
    }
}

#endif

/* What one step does to `count` numbers of a slot. `kind` and `penalty` are constants wherever this is called, so that
 * the compiler makes a loop of each case. */
static inline __attribute__((always_inline)) void NAMED(update)(
    int kind, int penalty, int64_t count, NUMBER *restrict p, NUMBER *restrict first, NUMBER *restrict second,
    const STORED *restrict gradient, NUMBER a, NUMBER b, NUMBER decay, NUMBER l1, NUMBER rate1, NUMBER rate2) {
    const NUMBER kept2 = 1 - rate2;
    for (int64_t i = 0; i < count; i++) {
        NUMBER g = LOADED(gradient[i]), w = p[i];
        if (penalty)
            g += l1 * (NUMBER)((w > 0) - (w < 0));
        if (kind == ADAMW)
            w *= decay;
        else
            g += decay * w;
        if (kind == SGD) {
            const NUMBER velocity = first[i] * rate1 + g;
            first[i] = velocity;
            w += a * velocity;
        } else {
            const NUMBER mean = first[i] + rate1 * (g - first[i]);
            const NUMBER square = second[i] * kept2 + rate2 * (g * g);
            first[i] = mean;
            second[i] = square;
            w += mean / (ROOT(square) * a - b);
        }
        if (!penalty) {
            const NUMBER above = w > -l1 ? w : -l1;
            w -= above < l1 ? above : l1;
        }
        p[i] = w;
    }
}

/* One step of some slots: see `Optimizer`. Their parameters and moments [slots, size] begin at p, first and second;
 * `gradients` are those of one parameter tensor after the other, each [slots, its size]; `table` [4, slots] has a, b,
 * decay and l1. Only the first `weights` numbers of a slot are decayed and have L1. */
void NAMED(step)(int64_t kind, int64_t penalty, int64_t slots, int64_t size, int64_t weights, NUMBER *p, NUMBER *first,
                 NUMBER *second, int64_t tensors, const int64_t *sizes, const STORED *const *gradients,
                 const NUMBER *table, double rate1, double rate2) {
    for (int64_t slot = 0; slot < slots; slot++) {
        const NUMBER a = table[slot], b = table[slots + slot];
        int64_t start = slot * size;
        for (int64_t tensor = 0; tensor < tensors; start += sizes[tensor++]) {
            const int64_t before = start - slot * size;
            int64_t done = 0;
            while (done < sizes[tensor]) {
                const int regularized = before + done < weights;
                int64_t count = sizes[tensor] - done;
                if (regularized && count > weights - before - done)
                    count = weights - before - done;
                const NUMBER decay = regularized ? table[2 * slots + slot] : kind == ADAMW;
                const NUMBER l1 = regularized ? table[3 * slots + slot] : 0;
                const STORED *gradient = gradients[tensor] + slot * sizes[tensor] + done;
                NUMBER *w = p + start + done, *m = first + start + done, *v = kind == SGD ? m : second + start + done;
#define UPDATE(KIND, PENALTY) \
    NAMED(update)(KIND, PENALTY, count, w, m, v, gradient, a, b, decay, l1, (NUMBER)rate1, (NUMBER)rate2)
                if (kind == ADAM)
                    penalty ? UPDATE(ADAM, 1) : UPDATE(ADAM, 0);
                else if (kind == ADAMW)
                    penalty ? UPDATE(ADAMW, 1) : UPDATE(ADAMW, 0);
                else
                    penalty ? UPDATE(SGD, 1) : UPDATE(SGD, 0);
#undef UPDATE
                done += count;
            }
        }
    }
}

#undef STORED
#undef NUMBER
#undef NAMED
#undef LOADED
#undef KEPT
#undef ROOT
#undef POWER

#endif
