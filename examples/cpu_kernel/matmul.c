/* c = a @ b of float matrices, stored row by row without gaps: a is m by k, b is k by n.
 *
 * The loops are those of Goto and van de Geijn, "Anatomy of High-Performance Matrix
 * Multiplication" (2008). A tile of b and a tile of a are copied into strips that are read from
 * front to back, filled up with zeros, so that block() always computes ROWS by COLUMNS sums at a
 * time and need not look where a matrix ends before it stores them.
 *
 * All sizes come from the compiler's command line: only if they are constants can the sums of a
 * block be kept in registers. They change the speed, but nothing in the result except rounding.
 */

#include <string.h>

#if TILE_M % ROWS != 0 || TILE_N % COLUMNS != 0
#error "blocks must divide tiles"
#endif

/* Where vectors and cache lines begin. */
#define ALIGNED __attribute__((aligned(64)))

/* Static, so a process can compute only one product at a time. */
static float tile_a[TILE_M * TILE_K] ALIGNED;
static float tile_b[TILE_K * TILE_N] ALIGNED;

static long smaller(long x, long y)
{
    return x < y ? x : y;
}

/* Copy width by depth numbers into strips: for each step of depth, `size` of them. From one to
 * the next it is `across` numbers, and `along` from one step to the next. */
static void pack(float *restrict strip, const float *restrict from, long across, long along,
                 long width, long depth, long size)
{
    for (long first = 0; first < width; first += size) {
        const long there = smaller(size, width - first);
        for (long p = 0; p < depth; p++, strip += size) {
            for (long i = 0; i < there; i++)
                strip[i] = from[(first + i) * across + p * along];
            for (long i = there; i < size; i++)
                strip[i] = 0;
        }
    }
}

/* Multiply a strip of tile_a by one of tile_b. Of the result, height by width lie within c. */
static void block(const float *restrict a, const float *restrict b, float *restrict c,
                  long height, long width, long depth, long n, int add)
{
    float sums[ROWS][COLUMNS] ALIGNED = {{0}};

    for (long p = 0; p < depth; p++, a += ROWS, b += COLUMNS)
        for (long i = 0; i < ROWS; i++)
/* Without -fopenmp-simd this is ignored, and the compiler chooses a loop by itself, or none. */
#pragma omp simd
            for (long j = 0; j < COLUMNS; j++)
                sums[i][j] += a[i] * b[j];

    for (long i = 0; i < height; i++)
        for (long j = 0; j < width; j++)
            /* What c holds at first counts for nothing, not even a NaN. */
            c[i * n + j] = add ? c[i * n + j] + sums[i][j] : sums[i][j];
}

void matmul(const float *restrict a, const float *restrict b, float *restrict c,
            long m, long n, long k)
{
    if (k == 0)
        memset(c, 0, sizeof(float) * m * n);
    for (long j = 0; j < n; j += TILE_N) {
        const long width = smaller(TILE_N, n - j);
        for (long p = 0; p < k; p += TILE_K) {
            const long depth = smaller(TILE_K, k - p);
            pack(tile_b, b + p * n + j, 1, n, width, depth, COLUMNS);
            for (long i = 0; i < m; i += TILE_M) {
                const long height = smaller(TILE_M, m - i);
                pack(tile_a, a + i * k + p, k, 1, height, depth, ROWS);
                for (long x = 0; x < width; x += COLUMNS)
                    for (long y = 0; y < height; y += ROWS)
                        block(tile_a + y * depth, tile_b + x * depth, c + (i + y) * n + j + x,
                              smaller(ROWS, height - y), smaller(COLUMNS, width - x), depth, n,
                              p > 0);
            }
        }
    }
}
