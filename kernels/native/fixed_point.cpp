// Floats to dynamic fixed point in one pass, and the magnitudes that settle the exponent: the bits that torch's
// operators give.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <cstring>
#include <tuple>
#include <vector>

#include "elementwise.h"

namespace qexp {
namespace {

using at::Tensor;
using std::optional;

// 24 bits drawn from a seed for a position: kernels/fixed_point/randomness.py.
inline uint32_t chance(uint32_t position, uint32_t seed) {
  uint32_t h = position * 0x9E3779B9u + seed;
  h = (h ^ h >> 16) * 0x7FEB352Du;
  h = (h ^ h >> 15) * 0x846CA68Bu;
  return (h ^ h >> 16) >> 8;
}

struct Mapping {
  float inverse_step, top, limit;
  uint32_t seed;
};

template <bool random, class Code>
void map_to(const float* x, int64_t begin, int64_t end, const Mapping& m, Code* __restrict codes) {
  const float inverse_step = m.inverse_step, top = m.top, limit = m.limit;
  for (int64_t i = begin; i < end; ++i) {
    float steps = x[i] * inverse_step;
    if constexpr (random) {
      const float below = std::floor(steps);
      // Signed, since only that has a vector instruction that makes it a float.
      const auto drawn = static_cast<float>(static_cast<int32_t>(chance(static_cast<uint32_t>(i), m.seed)));
      steps = below + (drawn < (steps - below) * 16777216.0f ? 1.0f : 0.0f);
    } else {
      steps = std::rint(steps);
    }
    steps = clamp(steps, -top, top);
    steps = std::fabs(x[i]) <= limit ? steps : 0.0f;
    codes[i] = static_cast<Code>(static_cast<int32_t>(steps));
  }
}

// clamp(round(x * 2^-exponent), -top, top), nearest or drawn from `seed`; 0 where |x| > limit. int8, or int16 for a
// larger top.
Tensor map(const Tensor& x_, int64_t exponent, int64_t top, double limit, optional<int64_t> seed) {
  TORCH_CHECK_TYPE(x_.scalar_type() == at::kFloat, "fixed_point_map takes float32, not ", x_.scalar_type());
  TORCH_CHECK_VALUE(top > 0 && top <= 32767, "fixed_point_map: codes fit int16, the largest is not ", top);
  const Tensor x = x_.contiguous();
  const Tensor codes = at::empty(x.sizes(), x.options().dtype(top <= 127 ? at::kChar : at::kShort));
  const Mapping m{std::ldexp(1.0f, static_cast<int>(-exponent)), static_cast<float>(top), static_cast<float>(limit),
                  static_cast<uint32_t>(seed.value_or(0))};
  const float* from = x.const_data_ptr<float>();
  const auto run = [&](auto* to) {
    at::parallel_for(0, x.numel(), GRAIN, [&](int64_t begin, int64_t end) {
      seed.has_value() ? map_to<true>(from, begin, end, m, to) : map_to<false>(from, begin, end, m, to);
    });
  };
  top <= 127 ? run(codes.mutable_data_ptr<int8_t>()) : run(codes.mutable_data_ptr<int16_t>());
  return codes;
}

// |x| as an integer: in the order of the floats, and NaN above all of them.
inline int32_t magnitude_bits(const float* x, int64_t i) {
  int32_t bits;
  std::memcpy(&bits, x + i, sizeof(bits));
  return bits & 0x7FFFFFFF;
}

inline float as_float(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// max |x|, 0 of nothing; NaN if there is one.
double magnitude(const Tensor& x_) {
  TORCH_CHECK_TYPE(x_.scalar_type() == at::kFloat, "fixed_point_magnitude takes float32, not ", x_.scalar_type());
  const Tensor x = x_.contiguous();
  const float* from = x.const_data_ptr<float>();
  const auto largest = [](int32_t a, int32_t b) { return std::max(a, b); };
  const auto of_part = [&](int64_t begin, int64_t end, int32_t found) {
    for (int64_t i = begin; i < end; ++i) found = std::max(found, magnitude_bits(from, i));
    return found;
  };
  return as_float(at::parallel_reduce(0, x.numel(), GRAIN, 0, of_part, largest));
}

// For each column of [M, K] the largest |x|, NaN if there is one, and the largest that is at most `limit`; 0 of nothing.
std::tuple<Tensor, Tensor> columns(const Tensor& x_, double limit) {
  TORCH_CHECK_TYPE(x_.scalar_type() == at::kFloat, "fixed_point_columns takes float32, not ", x_.scalar_type());
  TORCH_CHECK_VALUE(x_.dim() == 2, "fixed_point_columns takes a matrix, not ", x_.sizes());
  const Tensor x = x_.contiguous(), all = at::empty({x.size(1)}, x.options()), inliers = at::empty_like(all);
  const int64_t rows = x.size(0), width = x.size(1);
  const float* from = x.const_data_ptr<float>();
  float *of_all = all.mutable_data_ptr<float>(), *of_inliers = inliers.mutable_data_ptr<float>();
  const auto most = static_cast<float>(limit);
  at::parallel_for(0, width, GRAIN / std::max<int64_t>(rows, 1) + 1, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> largest(end - begin), within(end - begin);
    int32_t *__restrict l = largest.data(), *__restrict w = within.data();
    for (int64_t m = 0; m < rows; ++m) {
      const float* row = from + m * width + begin;
      for (int64_t k = 0; k < end - begin; ++k) {
        const int32_t bits = magnitude_bits(row, k);
        l[k] = std::max(l[k], bits);
        w[k] = std::max(w[k], as_float(bits) <= most ? bits : 0);
      }
    }
    std::memcpy(of_all + begin, l, (end - begin) * sizeof(float));
    std::memcpy(of_inliers + begin, w, (end - begin) * sizeof(float));
  });
  return {all, inliers};
}

TORCH_LIBRARY_FRAGMENT(qexp, m) {
  m.def("fixed_point_map(Tensor x, int exponent, int top, float limit, int? seed) -> Tensor");
  m.def("fixed_point_magnitude(Tensor x) -> float");
  m.def("fixed_point_columns(Tensor x, float limit) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(qexp, CPU, m) {
  m.impl("fixed_point_map", map);
  m.impl("fixed_point_magnitude", magnitude);
  m.impl("fixed_point_columns", columns);
}

}  // namespace
}  // namespace qexp
