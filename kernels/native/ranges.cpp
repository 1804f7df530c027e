// What the search for a range of least error needs (kernels/ranges.py): the loss of many grids in one look at memory.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "elementwise.h"

namespace qexp {
namespace {

using at::Tensor;

constexpr int64_t BLOCK = 4096;  // elements that stay in the first cache while every grid is tried on them
constexpr int LANES = 16;        // sums side by side: as many as the compiler keeps in vectors

// Sum of (quantized v - v)^2, in float32: of one block, whose sums are added in double.
double squared_error(const float* v, int64_t count, float step, float low, float high) {
  float lanes[LANES] = {};
  const auto add = [&](int l, float x) {
    const float error = clamp(std::rint(x / step), low, high) * step - x;
    lanes[l] += error * error;
  };
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES)
    for (int l = 0; l < LANES; ++l) add(l, v[i + l]);
  for (; i < count; ++i) add(0, v[i]);
  double sum = 0.0;
  for (float lane : lanes) sum += lane;
  return sum;
}

// x is [channels, n]; grids are [candidates, channels], and so are the sums over n, the same for any number of threads.
Tensor squared_errors(const Tensor& x_, const Tensor& scale_, const Tensor& low_, const Tensor& high_) {
  const Tensor x = x_.contiguous(), scale = scale_.contiguous(), low = low_.contiguous(), high = high_.contiguous();
  for (const Tensor& t : {x, scale, low, high})
    TORCH_CHECK_TYPE(t.scalar_type() == at::kFloat, "errors are taken of float32, not ", t.scalar_type());
  TORCH_CHECK_VALUE(x.dim() == 2 && scale.dim() == 2 && scale.size(1) == x.size(0),
                    "x is [channels, n], grids are [candidates, channels]");
  TORCH_CHECK_VALUE(low.sizes() == scale.sizes() && high.sizes() == scale.sizes(), "a grid has as many ends as scales");
  const int64_t candidates = scale.size(0), channels = x.size(0), n = x.size(1), blocks = (n + BLOCK - 1) / BLOCK;
  const Tensor sums = at::empty({candidates, channels, blocks}, x.options().dtype(at::kDouble));
  const float *from = x.const_data_ptr<float>(), *s = scale.const_data_ptr<float>(),
              *lo = low.const_data_ptr<float>(), *hi = high.const_data_ptr<float>();
  double* to = sums.mutable_data_ptr<double>();
  const int64_t work = std::max<int64_t>(1, std::min(BLOCK, n) * candidates);
  at::parallel_for(0, channels * blocks, GRAIN / work + 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t channel = task / blocks, first = task % blocks * BLOCK;
      for (int64_t grid = channel; grid < candidates * channels; grid += channels)
        to[grid * blocks + task % blocks] =
            squared_error(from + channel * n + first, std::min(BLOCK, n - first), s[grid], lo[grid], hi[grid]);
    }
  });
  return sums.sum(2);
}

TORCH_LIBRARY_FRAGMENT(qexp, m) {
  m.def("squared_errors(Tensor x, Tensor scale, Tensor low, Tensor high) -> Tensor");
}

TORCH_LIBRARY_IMPL(qexp, CPU, m) { m.impl("squared_errors", squared_errors); }

}  // namespace
}  // namespace qexp
