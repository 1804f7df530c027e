// The register tile: 4 rows x 16 columns, eight accumulators of eight int32.
#include "gemm.h"

#include <immintrin.h>

#include <cstring>

#pragma GCC target("avx2,fma")

namespace qexp {
namespace {

inline __m256i broadcast(const uint8_t* four) {
  int32_t bits;
  std::memcpy(&bits, four, sizeof(bits));
  return _mm256_set1_epi32(bits);
}

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

inline __m256i widen(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

template <int Rows>
struct Sums {
  __m256i v[Rows][2];
};

template <int Rows, int Chain>
inline void add_chained(Sums<Rows>& sums, const uint8_t* a, int64_t stride, const int8_t* b, int64_t depth) {
  for (int64_t k = 0; k < depth; k += 4 * Chain, b += 64 * Chain) {
    __m256i w[Chain][2];
    for (int c = 0; c < Chain; ++c) {
      w[c][0] = load(b + 64 * c);
      w[c][1] = load(b + 64 * c + 32);
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      __m256i left = _mm256_setzero_si256(), right = left;
#pragma GCC unroll 4
      for (int c = 0; c < Chain; ++c) {
        const __m256i x = broadcast(a + r * stride + k + 4 * c);
        const __m256i p = _mm256_maddubs_epi16(x, w[c][0]), q = _mm256_maddubs_epi16(x, w[c][1]);
        left = c == 0 ? p : _mm256_add_epi16(left, p);
        right = c == 0 ? q : _mm256_add_epi16(right, q);
      }
      sums.v[r][0] = _mm256_add_epi32(sums.v[r][0], widen(left));
      sums.v[r][1] = _mm256_add_epi32(sums.v[r][1], widen(right));
    }
  }
}

template <int Rows>
inline void add_free(Sums<Rows>& sums, const uint8_t* a, int64_t stride, const int8_t* b, int64_t depth) {
  for (int64_t k = 0; k < depth; k += 4, b += 64) {
    const __m256i w0 = load(b), w1 = load(b + 32);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const __m256i magnitude = broadcast(a + r * stride + 2 * k), mask = broadcast(a + r * stride + 2 * k + 4);
      const __m256i p = _mm256_maddubs_epi16(magnitude, _mm256_xor_si256(w0, mask));
      const __m256i q = _mm256_maddubs_epi16(magnitude, _mm256_xor_si256(w1, mask));
      sums.v[r][0] = _mm256_add_epi32(sums.v[r][0], widen(p));
      sums.v[r][1] = _mm256_add_epi32(sums.v[r][1], widen(q));
    }
  }
}

template <int Rows>
inline void add_extras(Sums<Rows>& sums, const uint8_t* a, int64_t stride, const Packed& b, int64_t panel) {
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const int32_t* starts = b.starts + 2 * panel + half;
    for (int32_t e = starts[0]; e < starts[1]; ++e) {
      const uint8_t* x = a + 4 * static_cast<int64_t>(b.groups[e]);
      const __m256i w = load(b.extras + 32 * static_cast<int64_t>(e));
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        const __m256i p = widen(_mm256_maddubs_epi16(broadcast(x + r * stride), w));
        sums.v[r][half] = _mm256_add_epi32(sums.v[r][half], p);
      }
    }
  }
}

template <int Rows>
inline void add_product(Sums<Rows>& sums, const Factors& f, int64_t row, int64_t panel) {
  const Packed& b = f.b;
  const uint8_t* a = f.a.data + row * f.a.stride;
  const int8_t* w = b.panels + panel * PANEL * b.depth;
  switch (b.chain) {
    case 0: add_free(sums, a, f.a.stride, w, b.depth); break;
    case 1: add_chained<Rows, 1>(sums, a, f.a.stride, w, b.depth); break;
    case 2: add_chained<Rows, 2>(sums, a, f.a.stride, w, b.depth); break;
    default: add_chained<Rows, 4>(sums, a, f.a.stride, w, b.depth);
  }
  if (b.chain != 0) add_extras(sums, a, f.a.stride, b, panel);
}

template <int Rows>
void tile(const Factors* factors, int64_t count, int64_t row, int64_t panel, int32_t* out) {
  Sums<Rows> sums;
  for (auto& of_row : sums.v) of_row[0] = of_row[1] = _mm256_setzero_si256();
  add_product(sums, factors[0], row, panel);
  for (int64_t i = 1; i < count; ++i) {
    for (auto& of_row : sums.v) {
      for (auto& half : of_row) half = _mm256_slli_epi32(half, factors[i].shift);
    }
    add_product(sums, factors[i], row, panel);
  }
  for (int r = 0; r < Rows; ++r) {
    for (int half = 0; half < 2; ++half) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + PANEL * r + 8 * half), sums.v[r][half]);
    }
  }
}

inline int32_t total(__m256i four_sums) {
  alignas(32) int64_t parts[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(parts), four_sums);
  return static_cast<int32_t>(parts[0] + parts[1] + parts[2] + parts[3]);
}

}  // namespace

void multiply_tile(const Factors* factors, int64_t count, int64_t row, int64_t rows, int64_t panel, int32_t* out) {
  switch (rows) {
    case 1: return tile<1>(factors, count, row, panel, out);
    case 2: return tile<2>(factors, count, row, panel, out);
    case 3: return tile<3>(factors, count, row, panel, out);
    default: return tile<4>(factors, count, row, panel, out);
  }
}

int32_t spread_codes(const uint8_t* codes, int64_t depth, uint8_t* out) {
  const __m128i zero = _mm_setzero_si128(), top = _mm_set1_epi8(-128);
  __m128i negative = zero;
  for (int64_t k = 0; k < depth; k += 16, out += 32) {
    const __m128i x = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + k)), top);
    const __m128i magnitude = _mm_abs_epi8(x), mask = _mm_cmpgt_epi8(zero, x);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_unpacklo_epi32(magnitude, mask));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16), _mm_unpackhi_epi32(magnitude, mask));
    negative = _mm_add_epi64(negative, _mm_sad_epu8(_mm_and_si128(magnitude, mask), zero));
  }
  return total(_mm256_zextsi128_si256(negative));
}

int32_t sum_codes(const uint8_t* codes, int64_t count) {
  __m256i sums = _mm256_setzero_si256();
  int64_t k = 0;
  for (; k + 32 <= count; k += 32) {
    sums = _mm256_add_epi64(sums, _mm256_sad_epu8(load(codes + k), _mm256_setzero_si256()));
  }
  int32_t sum = total(sums);
  for (; k < count; ++k) sum += codes[k];
  return sum;
}

}  // namespace qexp
