// The steps of uniform quantization, each in one pass over memory and with the bits that torch's operators give: a
// true division, rounding half to even, every operation rounded on its own. NaN stays NaN. Only the sign of a zero at
// the end of a grid may differ, which in torch depends on where in the tensor the element lies.
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <atomic>
#include <tuple>

#include "elementwise.h"

namespace qexp {
namespace {

using at::Tensor;

struct Grid {
  Tensor scale, low, high;  // float32, contiguous; low and high are the ends less the zero point

  Grid(const Tensor& x, const Tensor& scale_, const Tensor& low_, const Tensor& high_)
      : scale(scale_.contiguous()), low(low_.contiguous()), high(high_.contiguous()) {
    for (const Tensor& t : {x, scale, low, high})
      TORCH_CHECK_TYPE(t.scalar_type() == at::kFloat, "quantization takes float32, not ", t.scalar_type());
    TORCH_CHECK_VALUE(low.numel() == scale.numel() && high.numel() == scale.numel(),
                      "a grid has as many ends as scales");
  }
};

// run(start, count, scale, low, high, each) as for_each_stretch, with the grid's numbers for that stretch.
template <class Run>
void for_each_stretch(const Tensor& x, const Grid& g, const Run& run) {
  const Layout l = layout_of(x, g.scale);
  const float *scale = g.scale.const_data_ptr<float>(), *low = g.low.const_data_ptr<float>(),
              *high = g.high.const_data_ptr<float>();
  for_each_stretch(l, [&](int64_t start, int64_t count, int64_t channel) {
    if (l.inner > 1)
      run(start, count, scale + channel, low + channel, high + channel, std::false_type{});
    else
      run(start, count, scale + channel, low + channel, high + channel, std::true_type{});
  });
}

Tensor fake_quantize(const Tensor& x_, const Tensor& scale, const Tensor& low, const Tensor& high) {
  const Tensor x = x_.contiguous(), y = at::empty_like(x);
  const Grid grid{x, scale, low, high};
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  for_each_stretch(x, grid, [&](int64_t start, int64_t count, auto s, auto lo, auto hi, auto each) {
    for (int64_t i = 0; i < count; ++i) {
      const float step = pick<each>(s, i);
      to[start + i] = clamp(std::rint(from[start + i] / step), pick<each>(lo, i), pick<each>(hi, i)) * step;
    }
  });
  return y;
}

std::tuple<Tensor, Tensor> fake_quantize_masked(const Tensor& x_, const Tensor& scale, const Tensor& low,
                                                const Tensor& high) {
  const Tensor x = x_.contiguous(), y = at::empty_like(x), mask = at::empty_like(x, x.options().dtype(at::kBool));
  const Grid grid{x, scale, low, high};
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  auto* inside = reinterpret_cast<uint8_t*>(mask.mutable_data_ptr<bool>());
  for_each_stretch(x, grid, [&](int64_t start, int64_t count, auto s, auto lo, auto hi, auto each) {
    const float* v = from + start;
    float* __restrict values = to + start;
    uint8_t* __restrict flags = inside + start;  // restrict: a byte may alias anything, and no loop is vectorised then
    for (int64_t i = 0; i < count; ++i) {
      const float step = pick<each>(s, i), code = std::rint(v[i] / step);
      const float clamped = clamp(code, pick<each>(lo, i), pick<each>(hi, i));
      values[i] = clamped * step;
      flags[i] = code == clamped;
    }
  });
  return {y, mask};
}

// The mask as a factor, not a choice: 0 * infinity is NaN, as in torch.
Tensor fake_quantize_backward(const Tensor& gradient_, const Tensor& mask_) {
  TORCH_CHECK_TYPE(gradient_.scalar_type() == at::kFloat && mask_.scalar_type() == at::kBool,
                   "the backward pass takes a float32 gradient and a bool mask");
  TORCH_CHECK_VALUE(gradient_.sizes() == mask_.sizes(), "gradient and mask differ in shape");
  const Tensor gradient = gradient_.contiguous(), mask = mask_.contiguous(), out = at::empty_like(gradient);
  const float* from = gradient.const_data_ptr<float>();
  const auto* inside = reinterpret_cast<const uint8_t*>(mask.const_data_ptr<bool>());
  float* to = out.mutable_data_ptr<float>();
  at::parallel_for(0, out.numel(), GRAIN, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = static_cast<float>(inside[i]) * from[i];
  });
  return out;
}

// The same from x itself, for a parameter, which is kept anyway.
Tensor fake_quantize_gradient(const Tensor& gradient_, const Tensor& x_, const Tensor& scale, const Tensor& low,
                              const Tensor& high) {
  TORCH_CHECK_TYPE(gradient_.scalar_type() == at::kFloat, "the backward pass takes a float32 gradient");
  TORCH_CHECK_VALUE(gradient_.sizes() == x_.sizes(), "gradient and input differ in shape");
  const Tensor gradient = gradient_.contiguous(), x = x_.contiguous(), out = at::empty_like(x);
  const Grid grid{x, scale, low, high};
  const float *incoming = gradient.const_data_ptr<float>(), *from = x.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  for_each_stretch(x, grid, [&](int64_t start, int64_t count, auto s, auto lo, auto hi, auto each) {
    for (int64_t i = 0; i < count; ++i) {
      const float code = std::rint(from[start + i] / pick<each>(s, i));
      const bool inside = code == clamp(code, pick<each>(lo, i), pick<each>(hi, i));
      to[start + i] = (inside ? 1.0f : 0.0f) * incoming[start + i];
    }
  });
  return out;
}

// Codes from the smallest one upwards; whether all of x was finite.
template <class Code>
bool quantize_to(const Tensor& x, const Grid& grid, int32_t qmin, Code* to) {
  const float* from = x.const_data_ptr<float>();
  std::atomic<bool> finite{true};
  for_each_stretch(x, grid, [&](int64_t start, int64_t count, auto s, auto lo, auto hi, auto each) {
    const float* v = from + start;
    Code* __restrict codes = to + start;
    const int32_t smallest = qmin;
    int32_t bad = 0;
    for (int64_t i = 0; i < count; ++i) {
      const float low = pick<each>(lo, i);
      const float step = clamp(std::rint(v[i] / pick<each>(s, i)), low, pick<each>(hi, i));
      codes[i] = static_cast<Code>(static_cast<int32_t>(step - low) + smallest);
      bad |= not_finite(v[i]);
    }
    if (bad) finite = false;
  });
  return finite;
}

Tensor quantize(const Tensor& x_, const Tensor& scale, const Tensor& low, const Tensor& high, int64_t qmin) {
  const Tensor x = x_.contiguous(), codes = at::empty_like(x, x.options().dtype(qmin < 0 ? at::kChar : at::kByte));
  const Grid grid{x, scale, low, high};
  const bool finite = qmin < 0 ? quantize_to(x, grid, qmin, codes.mutable_data_ptr<int8_t>())
                               : quantize_to(x, grid, qmin, codes.mutable_data_ptr<uint8_t>());
  TORCH_CHECK_VALUE(finite, "NaN or infinity in the input");
  return codes;
}

template <class Code>
void dequantize_from(const Code* from, const Layout& l, const float* scale, const int32_t* zero_point, float* to) {
  for_each_stretch(l, [&](int64_t start, int64_t count, int64_t channel) {
    const float* s = scale + channel;
    const int32_t* z = zero_point + channel;
    if (l.inner > 1)
      for (int64_t i = start; i < start + count; ++i) to[i] = static_cast<float>(from[i] - *z) * *s;
    else
      for (int64_t i = 0; i < count; ++i) to[start + i] = static_cast<float>(from[start + i] - z[i]) * s[i];
  });
}

Tensor dequantize(const Tensor& codes_, const Tensor& scale_, const Tensor& zero_point_) {
  const Tensor codes = codes_.contiguous(), scale = scale_.contiguous(), zero_point = zero_point_.contiguous();
  TORCH_CHECK_VALUE(scale.numel() == zero_point.numel(), "a grid has as many zero points as scales");
  const Tensor out = at::empty_like(codes, codes.options().dtype(at::kFloat));
  const Layout l = layout_of(codes, scale);
  const auto *s = scale.const_data_ptr<float>();
  const auto *z = zero_point.const_data_ptr<int32_t>();
  if (codes.scalar_type() == at::kByte)
    dequantize_from(codes.const_data_ptr<uint8_t>(), l, s, z, out.mutable_data_ptr<float>());
  else
    dequantize_from(codes.const_data_ptr<int8_t>(), l, s, z, out.mutable_data_ptr<float>());
  return out;
}

TORCH_LIBRARY_FRAGMENT(qexp, m) {
  m.def("fake_quantize(Tensor x, Tensor scale, Tensor low, Tensor high) -> Tensor");
  m.def("fake_quantize_masked(Tensor x, Tensor scale, Tensor low, Tensor high) -> (Tensor, Tensor)");
  m.def("fake_quantize_backward(Tensor gradient, Tensor mask) -> Tensor");
  m.def("fake_quantize_gradient(Tensor gradient, Tensor x, Tensor scale, Tensor low, Tensor high) -> Tensor");
  m.def("quantize(Tensor x, Tensor scale, Tensor low, Tensor high, int qmin) -> Tensor");
  m.def("dequantize(Tensor codes, Tensor scale, Tensor zero_point) -> Tensor");
}

TORCH_LIBRARY_IMPL(qexp, CPU, m) {
  m.impl("fake_quantize", fake_quantize);
  m.impl("fake_quantize_masked", fake_quantize_masked);
  m.impl("fake_quantize_backward", fake_quantize_backward);
  m.impl("fake_quantize_gradient", fake_quantize_gradient);
  m.impl("quantize", quantize);
  m.impl("dequantize", dequantize);
}

}  // namespace
}  // namespace qexp
