/* SIMD vectors of float32, as wide as the registers of the processor, with loads and stores of float32 and bfloat16.

   LANES is the number of float32 in a vector. `half` selects bfloat16 in place of float32. */
#ifndef VEC_H
#define VEC_H

#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "kernels.h"

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float loose_vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef uint16_t half_vec __attribute__((vector_size(2 * LANES), aligned(2)));

INLINE dim round_up(dim count, dim multiple) { return (count + multiple - 1) / multiple * multiple; }
INLINE dim least(dim a, dim b) { return a < b ? a : b; }
INLINE dim most(dim a, dim b) { return a > b ? a : b; }

INLINE vec load_float(const float *from) { return *(const loose_vec *)from; }
INLINE void store_float(float *to, vec v) { *(loose_vec *)to = v; }
INLINE vec all(float value) { return value - (vec){0}; }

/* A bfloat16 is the upper 16 bits of a float32. */
INLINE vec load_half(const uint16_t *from) {
    return (vec)(__builtin_convertvector(*(const half_vec *)from, uvec) << 16);
}

/* Rounds to nearest, ties to even. NaN stays NaN. */
INLINE void store_half(uint16_t *to, vec v) {
#ifdef __AVX512BF16__
    __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
    memcpy(to, &rounded, sizeof rounded);
#else
    uvec bits = (uvec)v, is_number = (uvec)(v == v);
    uvec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    *(half_vec *)to = __builtin_convertvector((rounded & is_number) | (0x7fc0 & ~is_number), half_vec);
#endif
}

/* The address of element `place` of an array of float32 or bfloat16. */
INLINE const void *at(const void *array, dim place, int half) { return (const char *)array + place * (half ? 2 : 4); }

/* load: LANES numbers. load_some: the first `count` of them, then zeros, without reading further. */
INLINE vec load(const void *from, int half) { return half ? load_half(from) : load_float(from); }
INLINE vec load_some(const void *from, dim count, int half) {
    if (count >= LANES) return load(from, half);
#ifdef __AVX512F__
    __mmask16 mask = (__mmask16)((1u << count) - 1);
    if (!half) return (vec)_mm512_maskz_loadu_ps(mask, from);
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16);
#else
    float part[LANES] __attribute__((aligned(64))) = {0};
    uint16_t half_part[LANES] __attribute__((aligned(64))) = {0};
    if (!half) return memcpy(part, from, (size_t)count * 4), load_float(part);
    return memcpy(half_part, from, (size_t)count * 2), load_half(half_part);
#endif
}

INLINE void store(void *to, vec v, int half) {
    if (half) store_half(to, v);
    else store_float(to, v);
}
INLINE void store_some(void *to, vec v, dim count, int half) {
    if (count >= LANES) return store(to, v, half);
    char part[4 * LANES] __attribute__((aligned(64)));
    store(part, v, half);
#ifdef __AVX512F__
    __mmask16 mask = (__mmask16)((1u << count) - 1);
    if (half) _mm256_mask_storeu_epi16(to, mask, *(const __m256i *)part);
    else _mm512_mask_storeu_ps(to, mask, (__m512)v);
#else
    memcpy(to, part, (size_t)count * (half ? 2 : 4));
#endif
}

#ifdef __AVX512F__
/* Transposes 16 x 16 numbers of 32 bits. */
INLINE void turn(__m512i r[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}
#endif

INLINE void turn_block(float block[LANES][LANES]) {
#ifdef __AVX512F__
    __m512i rows[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) rows[i] = _mm512_loadu_si512(block[i]);
    turn(rows);
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) _mm512_storeu_si512(block[i], rows[i]);
#else
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            float other = block[i][j];
            block[i][j] = block[j][i], block[j][i] = other;
        }
#endif
}

/* block[i][j] = from[i * down + j * across], with zeros beyond (rows, columns). Either `down` or `across` is 1. */
INLINE void load_block(const float *from, dim down, dim across, dim rows, dim columns, float block[LANES][LANES]) {
    dim lines = across == 1 ? rows : columns, step = across == 1 ? down : across;
    for (dim i = 0; i < LANES; i++)
        store_float(block[i], i < lines ? load_some(from + i * step, across == 1 ? columns : rows, 0) : (vec){0});
    if (across != 1) turn_block(block);
}

/* to[i * down + j * across] = block[i][j], up to (rows, columns). Either `down` or `across` is 1. Destroys the block. */
INLINE void store_block(float block[LANES][LANES], float *to, dim down, dim across, dim rows, dim columns) {
    dim lines = across == 1 ? rows : columns, step = across == 1 ? down : across;
    if (across != 1) turn_block(block);
    for (dim i = 0; i < least(LANES, lines); i++)
        store_some(to + i * step, load_float(block[i]), across == 1 ? columns : rows, 0);
}

/* The epilogue (kernels.h): applies it to LANES results, or `count` of them, and stores them at element `place` of `to`.
   `channel` is the channel of the first one. */
INLINE void finish(vec v, const Epilogue *epilogue, dim channel, void *to, dim place, dim count, int half) {
    vec zero = {0};
    if (epilogue->bias) v += load_some(epilogue->bias + channel, count, 0);
    if (epilogue->add) v += load_some(at(epilogue->add, place, half), count, half);
    /* Not max(v, 0): NaN must stay NaN. */
    if (epilogue->relu) v = (vec)((ivec)v & ~(v <= zero));
    if (epilogue->mask) v = (vec)((ivec)v & (load_some(at(epilogue->mask, place, half), count, half) > zero));
    store_some((char *)to + place * (half ? 2 : 4), v, count, half);
}

#endif
