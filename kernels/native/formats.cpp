// Rounding to a narrow floating-point format in one pass, with the bits that kernels/formats.py gives.
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <cstring>

#include "elementwise.h"

namespace qexp {
namespace {

using at::Tensor;

constexpr uint32_t EXPONENT_FIELD = 0x7F800000u;

inline float power_of_two_below(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  bits &= EXPONENT_FIELD;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// 1.5 * 2^(23 - m) * (the power of two below x) has the format's spacing at x as its own last bit: adding it rounds to
// nearest, ties to even, and subtracting it is exact. A zero comes out as +0, the only one there is without signs.
Tensor round_to_format(const Tensor& x_, double largest_, double smallest_normal_, int64_t mantissa_bits,
                       bool signed_zero) {
  TORCH_CHECK_TYPE(x_.scalar_type() == at::kFloat, "rounding takes float32, not ", x_.scalar_type());
  const Tensor x = x_.contiguous(), y = at::empty_like(x);
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  const auto largest = static_cast<float>(largest_), smallest_normal = static_cast<float>(smallest_normal_);
  const float lift = 1.5f * static_cast<float>(int64_t{1} << (23 - mantissa_bits));
  const auto round = [&](int64_t begin, int64_t end, auto keeps_sign) {
    for (int64_t i = begin; i < end; ++i) {
      const float v = clamp(from[i], -largest, largest), below = power_of_two_below(v);
      const float lifted = (below < smallest_normal ? smallest_normal : below) * lift;
      const float rounded = (v + lifted) - lifted;
      to[i] = keeps_sign ? std::copysign(rounded, v) : rounded;
    }
  };
  at::parallel_for(0, y.numel(), GRAIN, [&](int64_t begin, int64_t end) {
    if (signed_zero)
      round(begin, end, std::true_type{});
    else
      round(begin, end, std::false_type{});
  });
  return y;
}

TORCH_LIBRARY_FRAGMENT(qexp, m) {
  m.def("round_to_format(Tensor x, float largest, float smallest_normal, int mantissa_bits, bool signed_zero) -> Tensor");
}

TORCH_LIBRARY_IMPL(qexp, CPU, m) { m.impl("round_to_format", round_to_format); }

}  // namespace
}  // namespace qexp
