// Sums of integer products, each with a power of two as its step, to float32: every sum exact, rounded once at its end.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <memory>
#include <vector>

#include "codes.h"
#include "elementwise.h"
#include "packing.h"
#include "tasks.h"

namespace qexp {
namespace {

using at::Tensor;
using std::optional;

// Whether an int32 made a float and scaled in float32 is what float64 gives, rounded: no result is subnormal.
bool is_normal(int64_t exponent) { return exponent >= -126 && exponent <= 127; }

// count numbers in the making: `first` in float32 where it is all there is, else sums in double.
struct Line {
  float* out;
  int64_t count;

  void only(const int32_t* sums, float step, const float* bias) const {
    for (int64_t n = 0; n < count; ++n) out[n] = static_cast<float>(sums[n]) * step;
    add(bias);
  }

  void rounded(const double* total, const float* bias) const {
    for (int64_t n = 0; n < count; ++n) out[n] = static_cast<float>(total[n]);
    add(bias);
  }

  void add(const float* bias) const {
    if (bias == nullptr) return;
    for (int64_t n = 0; n < count; ++n) out[n] += bias[n];
  }
};

inline void accumulate(const int32_t* sums, double step, int64_t count, double* __restrict total) {
  for (int64_t n = 0; n < count; ++n) total[n] += static_cast<double>(sums[n]) * step;
}

// The bias [n] in memory, null if there is none.
Tensor check_bias(const optional<Tensor>& bias, int64_t n) {
  if (!bias.has_value()) return {};
  TORCH_CHECK_TYPE(bias->scalar_type() == at::kFloat, "a bias is float32, not ", bias->scalar_type());
  TORCH_CHECK_VALUE(bias->numel() == n, n, " output channels need ", n, " biases, not ", bias->numel());
  return bias->contiguous();
}

const float* data_of(const Tensor& bias) { return bias.defined() ? bias.const_data_ptr<float>() : nullptr; }

// One product of a sum, both factors ready for the tiles.
class Term {
 public:
  // a [M, K], uint8 or int8, any strides; b as `next` gives it.
  Term(const Tensor& a, const Packed& b, int64_t exponent)
      : weight_(b), exponent_(exponent), kept_(a), terms_(column_terms(b, a.scalar_type() == at::kChar ? 128 : 0, 0)) {
    TORCH_CHECK_VALUE(a.dim() == 2 && a.size(1) == b.k && (a.scalar_type() == at::kByte || a.scalar_type() == at::kChar),
                      "fixed_point_product: 8-bit codes [M, ", b.k, "] are needed");
    const bool is_signed = a.scalar_type() == at::kChar, as_columns = !a.is_contiguous() && a.t().is_contiguous();
    if (!as_columns) kept_ = a.contiguous();
    const auto* codes = static_cast<const uint8_t*>(kept_.const_data_ptr());
    codes_ = as_columns ? ReadyCodes::of_columns(codes, is_signed, a.size(0), b)
                        : ReadyCodes(codes, is_signed, a.size(0), b);
  }

  // The exact sums of a tile: [rows, 16].
  void sums(int64_t row, int64_t rows, int64_t panel, int32_t* out) const {
    multiply_tile(codes_.view(), row, rows, weight_, panel, out);
    const int32_t* of_column = terms_.data() + panel * PANEL;
    for (int64_t r = 0; r < rows; ++r, out += PANEL) {
      const auto of_row = static_cast<uint32_t>(codes_.term(row + r));
      for (int64_t c = 0; c < PANEL; ++c)  // unsigned, since the terms alone may leave int32 and wrap round
        out[c] = static_cast<int32_t>(static_cast<uint32_t>(out[c]) + static_cast<uint32_t>(of_column[c]) + of_row);
    }
  }

  int64_t exponent() const { return exponent_; }
  double step() const { return std::ldexp(1.0, static_cast<int>(exponent_)); }
  int64_t depth() const { return weight_.depth; }
  int64_t columns() const { return weight_.n; }
  int64_t rows() const { return kept_.size(0); }

 private:
  Packed weight_;
  int64_t exponent_;
  Tensor kept_;
  ReadyCodes codes_{0, weight_};
  std::vector<int32_t> terms_;
};

// Second factors one after another: int8 [N, K] of any strides, packed here, or the panels of a packed weight, whose
// other tensors are taken from `packed`.
class Weights {
 public:
  explicit Weights(at::TensorList packed) : packed_(packed) {}

  Packed next(const Tensor& b) {
    if (b.dim() == 4) {
      TORCH_CHECK_VALUE(packed_.size() >= 5, "fixed_point_product: the rest of a packed weight is missing");
      std::vector<Tensor> whole{b};
      whole.insert(whole.end(), packed_.begin(), packed_.begin() + 5);
      packed_ = packed_.slice(5);
      return view_packed(whole);
    }
    TORCH_CHECK_VALUE(b.dim() == 2 && b.scalar_type() == at::kChar, "fixed_point_product: int8 codes [N, K] are needed");
    const bool transposed = !b.is_contiguous() && b.t().is_contiguous();
    const Tensor codes = transposed ? b : b.contiguous();
    own_.push_back(std::make_unique<FreeWeight>(codes.const_data_ptr<int8_t>(), b.size(0), b.size(1), transposed));
    return own_.back()->view();
  }

 private:
  at::TensorList packed_;
  std::vector<std::unique_ptr<FreeWeight>> own_;
};

void multiply(const std::vector<Term>& terms, const float* bias, float* out) {
  const int64_t columns = terms[0].columns(), panels = (columns + PANEL - 1) / PANEL;
  const bool is_one = terms.size() == 1 && is_normal(terms[0].exponent());
  int64_t depth = 0;
  for (const Term& t : terms) depth += t.depth();
  for_each_place(terms[0].rows(), panels, depth, [&](int64_t row, int64_t rows, int64_t panel) {
    alignas(32) int32_t sums[TILE_ROWS * PANEL];
    alignas(32) double total[TILE_ROWS * PANEL] = {};
    for (const Term& t : terms) {
      t.sums(row, rows, panel, sums);
      if (!is_one) accumulate(sums, t.step(), rows * PANEL, total);
    }
    const int64_t first = panel * PANEL, count = std::min(PANEL, columns - first);
    const float* of_columns = bias == nullptr ? nullptr : bias + first;
    for (int64_t r = 0; r < rows; ++r) {
      const Line line{out + (row + r) * columns + first, count};
      if (is_one)
        line.only(sums + r * PANEL, static_cast<float>(terms[0].step()), of_columns);
      else
        line.rounded(total + r * PANEL, of_columns);
    }
  });
}

// float32([M, N] of sum_i 2^exponent_i * a_i b_i^T) + bias.
Tensor product(const Tensor& a, const Tensor& b, int64_t exponent, at::TensorList more_a, at::TensorList more_b,
               at::IntArrayRef more_exponents, const optional<Tensor>& bias_, at::TensorList packed) {
  TORCH_CHECK_VALUE(more_a.size() == more_b.size() && more_a.size() == more_exponents.size(),
                    "fixed_point_product: each product has two factors and an exponent");
  Weights weights(packed);
  std::vector<Term> terms;
  terms.emplace_back(a, weights.next(b), exponent);
  for (size_t i = 0; i < more_a.size(); ++i) terms.emplace_back(more_a[i], weights.next(more_b[i]), more_exponents[i]);
  const int64_t rows = terms[0].rows(), columns = terms[0].columns();
  for (const Term& t : terms)
    TORCH_CHECK_VALUE(t.rows() == rows && t.columns() == columns, "fixed_point_product: summands differ in shape");
  const Tensor bias = check_bias(bias_, columns), out = at::empty({rows, columns}, a.options().dtype(at::kFloat));
  multiply(terms, data_of(bias), out.mutable_data_ptr<float>());
  return out;
}

// The same of the products' int32 sums [M, N].
Tensor sum(at::TensorList sums_, at::IntArrayRef exponents, const optional<Tensor>& bias_) {
  TORCH_CHECK_VALUE(!sums_.empty() && sums_.size() == exponents.size(), "fixed_point_sum: one exponent a summand");
  std::vector<Tensor> sums;
  for (const Tensor& t : sums_) {
    TORCH_CHECK_TYPE(t.scalar_type() == at::kInt && t.dim() == 2, "fixed_point_sum takes int32 [M, N]");
    TORCH_CHECK_VALUE(t.sizes() == sums_[0].sizes(), "fixed_point_sum: summands differ in shape");
    sums.push_back(t.contiguous());
  }
  const int64_t rows = sums[0].size(0), columns = sums[0].size(1);
  const Tensor bias = check_bias(bias_, columns), out = at::empty({rows, columns}, sums[0].options().dtype(at::kFloat));
  const bool is_one = sums.size() == 1 && is_normal(exponents[0]);
  at::parallel_for(0, rows, GRAIN / std::max<int64_t>(columns, 1) + 1, [&](int64_t begin, int64_t end) {
    std::vector<double> total(is_one ? 0 : columns);
    for (int64_t m = begin; m < end; ++m) {
      const Line line{out.mutable_data_ptr<float>() + m * columns, columns};
      const auto from = [&](const Tensor& t) { return t.const_data_ptr<int32_t>() + m * columns; };
      if (is_one) {
        line.only(from(sums[0]), std::ldexp(1.0f, static_cast<int>(exponents[0])), data_of(bias));
        continue;
      }
      std::fill(total.begin(), total.end(), 0.0);
      for (size_t i = 0; i < sums.size(); ++i)
        accumulate(from(sums[i]), std::ldexp(1.0, static_cast<int>(exponents[i])), columns, total.data());
      line.rounded(total.data(), data_of(bias));
    }
  });
  return out;
}

TORCH_LIBRARY_FRAGMENT(qexp, m) {
  m.def(
      "fixed_point_product(Tensor a, Tensor b, int exponent, Tensor[] more_a, Tensor[] more_b, int[] more_exponents, "
      "Tensor? bias, Tensor[] packed) -> Tensor");
  m.def("fixed_point_sum(Tensor[] sums, int[] exponents, Tensor? bias) -> Tensor");
}

TORCH_LIBRARY_IMPL(qexp, CPU, m) {
  m.impl("fixed_point_product", product);
  m.impl("fixed_point_sum", sum);
}

}  // namespace
}  // namespace qexp
