// Vectors of 16 numbers, for attention_kernel.h, with the multiply-add of int16 pairs of AVX-512 VNNI.

using Floats = __m512;
using Ints = __m512i;
constexpr int64_t LANES = 16;
constexpr int BLOCK = 8;  // rows multiplied together: 16 sums hide the latency of the multiply-add

inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
inline Floats broadcast(float v) { return _mm512_set1_ps(v); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
// Of two numbers of which one is NaN, the second.
inline Floats maximum(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats minimum(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats nearest(Floats v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Floats to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }
// 2^n for whole n >= -127, with 0 for the last.
inline Floats power_of_two(Floats n) {
  const Ints exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}
inline float largest_lane(Floats v) { return _mm512_reduce_max_ps(v); }
inline float sum_of_lanes(Floats v) { return _mm512_reduce_add_ps(v); }

inline Ints load_ints(const int16_t* p) { return _mm512_loadu_si512(p); }
inline Ints broadcast_pair(const int16_t* p) {
  int32_t pair;
  std::memcpy(&pair, p, sizeof pair);
  return _mm512_set1_epi32(pair);
}
// sum + a0 b0 + a1 b1 for the two int16 of each lane.
inline Ints add_products(Ints sum, Ints a, Ints b) { return _mm512_dpwssd_epi32(sum, a, b); }
inline void store_codes(int16_t* p, Floats v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(v)));
}
