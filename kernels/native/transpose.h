// Transposing bytes in registers.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#pragma GCC target("avx2,fma")

namespace qexp {

constexpr int64_t SQUARE = 16;

// to[c][r] = from[r][c] ^ flip for 16 x 16 bytes. Each round rotates the eight bits of (row, column) by one.
inline void transpose_square(const uint8_t* from, int64_t stride, uint8_t flip, uint8_t* to, int64_t to_stride) {
  __m128i v[SQUARE], w[SQUARE];
  const __m128i flips = _mm_set1_epi8(static_cast<char>(flip));
  for (int64_t r = 0; r < SQUARE; ++r) {
    v[r] = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + r * stride)), flips);
  }
  for (int round = 0; round < 4; ++round) {
    for (int64_t i = 0; i < SQUARE / 2; ++i) {
      w[2 * i] = _mm_unpacklo_epi8(v[i], v[i + SQUARE / 2]);
      w[2 * i + 1] = _mm_unpackhi_epi8(v[i], v[i + SQUARE / 2]);
    }
    std::memcpy(v, w, sizeof(v));
  }
  for (int64_t c = 0; c < SQUARE; ++c) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + c * to_stride), v[c]);
}

// The same of up to 16 rows and columns, into a whole square: zeros (flipped) where there are none.
inline void transpose_part(const uint8_t* from, int64_t stride, int64_t rows, int64_t columns, uint8_t flip,
                           uint8_t* to, int64_t to_stride) {
  if (rows >= SQUARE && columns >= SQUARE) return transpose_square(from, stride, flip, to, to_stride);
  uint8_t room[SQUARE * SQUARE] = {};
  for (int64_t r = 0; r < std::min(rows, SQUARE); ++r) {
    std::memcpy(room + r * SQUARE, from + r * stride, std::min(columns, SQUARE));
  }
  transpose_square(room, SQUARE, flip, to, to_stride);
}

}  // namespace qexp
