// What kernels/kurtosis.py needs of a weight: sums of its powers in one look at memory, its gradient in another.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "elementwise.h"

namespace qexp {
namespace {

using at::Tensor;

constexpr int64_t BLOCK = 4096;  // elements summed in float32; the sums of blocks are added in double
constexpr int LANES = 16;        // sums side by side: as many as the compiler keeps in vectors
constexpr int POWERS = 4;

struct Sums {
  float lanes[POWERS][LANES] = {};

  void add(int l, float x) {
    const float square = x * x;
    lanes[0][l] += x;
    lanes[1][l] += square;
    lanes[2][l] += square * x;
    lanes[3][l] += square * square;
  }

  double total(int power) const {
    double sum = 0.0;
    for (float lane : lanes[power]) sum += lane;
    return sum;
  }
};

Sums sums_of(const float* w, int64_t count, float pivot) {
  Sums sums;
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES)
    for (int l = 0; l < LANES; ++l) sums.add(l, w[i + l] - pivot);
  for (; i < count; ++i) sums.add(0, w[i] - pivot);
  return sums;
}

// The sums of (w - pivot)^1 to ^4, the same for any number of threads.
Tensor power_sums(const Tensor& w_, double pivot) {
  TORCH_CHECK_TYPE(w_.scalar_type() == at::kFloat, "sums of powers are taken of float32, not ", w_.scalar_type());
  const Tensor w = w_.contiguous();
  const int64_t n = w.numel(), blocks = (n + BLOCK - 1) / BLOCK;
  const Tensor partial = at::empty({blocks, POWERS}, w.options().dtype(at::kDouble));
  const float* from = w.const_data_ptr<float>();
  double* to = partial.mutable_data_ptr<double>();
  at::parallel_for(0, blocks, GRAIN / BLOCK, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const Sums sums = sums_of(from + b * BLOCK, std::min(BLOCK, n - b * BLOCK), static_cast<float>(pivot));
      for (int power = 0; power < POWERS; ++power) to[b * POWERS + power] = sums.total(power);
    }
  });
  return partial.sum(0);
}

// cubic c^3 + linear c + constant of c = w - mean.
Tensor cubic_of_centred(const Tensor& w_, double mean_, double cubic_, double linear_, double constant_) {
  TORCH_CHECK_TYPE(w_.scalar_type() == at::kFloat, "the gradient is taken of float32, not ", w_.scalar_type());
  const Tensor w = w_.contiguous(), out = at::empty_like(w);
  const float* __restrict from = w.const_data_ptr<float>();
  float* __restrict to = out.mutable_data_ptr<float>();
  const auto mean = static_cast<float>(mean_), cubic = static_cast<float>(cubic_),
             linear = static_cast<float>(linear_), constant = static_cast<float>(constant_);
  at::parallel_for(0, w.numel(), GRAIN, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float c = from[i] - mean;
      to[i] = (cubic * c * c + linear) * c + constant;
    }
  });
  return out;
}

TORCH_LIBRARY_FRAGMENT(qexp, m) {
  m.def("power_sums(Tensor w, float pivot) -> Tensor");
  m.def("cubic_of_centred(Tensor w, float mean, float cubic, float linear, float constant) -> Tensor");
}

TORCH_LIBRARY_IMPL(qexp, CPU, m) {
  m.impl("power_sums", power_sums);
  m.impl("cubic_of_centred", cubic_of_centred);
}

}  // namespace
}  // namespace qexp
