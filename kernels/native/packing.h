// Packed weights as tensors: how they are made, and how operators read them.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "gemm.h"

namespace qexp {

// The layout of b [n, k] (int8, contiguous): panels int8 [n / 16, depth / 4, 16, 4], column sums int32 [n],
// form int32 [k, chain], and the extras' starts int32 [2 * panels + 1], groups int32 [e], values int8 [e, 8, 4].
std::vector<at::Tensor> pack_as(const at::Tensor& b, int chain);

// In the form that takes least time for these very weights.
std::vector<at::Tensor> pack_fastest(const at::Tensor& b);

// A view of packed tensors, which must outlive it. Throws if they are not what a packing gave.
Packed view_packed(at::TensorList tensors);

// A weight in the free form without tensors, for one that is multiplied once: b [n, k], or `transposed` as it lies in
// memory, [k, n], is copied.
class FreeWeight {
 public:
  FreeWeight(const int8_t* b, int64_t n, int64_t k, bool transposed = false);
  Packed view() const { return {panels_.data(), sums_.data(), nullptr, nullptr, nullptr, n_, k_, depth_, 0}; }

 private:
  int64_t n_, k_, depth_;
  std::vector<int8_t> panels_;
  std::vector<int32_t> sums_;
};

inline int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace qexp
