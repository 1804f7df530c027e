// Sums of integer products, each with a power of two as its step, to float32: every sum exact, rounded once at its end.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
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

double power_of_two(int64_t exponent) { return std::ldexp(1.0, static_cast<int>(exponent)); }

inline void accumulate(const int32_t* sums, double step, int64_t count, double* __restrict total) {
  for (int64_t n = 0; n < count; ++n) total[n] += static_cast<double>(sums[n]) * step;
}

inline void scale(const int32_t* sums, float step, int64_t count, float* __restrict out) {
  for (int64_t n = 0; n < count; ++n) out[n] = static_cast<float>(sums[n]) * step;
}

inline void round_all(const double* total, int64_t count, float* __restrict out) {
  for (int64_t n = 0; n < count; ++n) out[n] = static_cast<float>(total[n]);
}

inline void add(const float* bias, int64_t count, float* __restrict out) {
  for (int64_t n = 0; n < count; ++n) out[n] += bias[n];
}

// The bias [n] in memory with zeros up to whole panels; empty if there is none.
std::vector<float> padded_bias(const optional<Tensor>& bias, int64_t n) {
  if (!bias.has_value()) return {};
  TORCH_CHECK_TYPE(bias->scalar_type() == at::kFloat, "a bias is float32, not ", bias->scalar_type());
  TORCH_CHECK_VALUE(bias->numel() == n, n, " output channels need ", n, " biases, not ", bias->numel());
  const Tensor values = bias->contiguous();
  std::vector<float> padded(round_up(n, PANEL));
  std::copy_n(values.const_data_ptr<float>(), n, padded.data());
  return padded;
}

// First factors made ready for the tiles: [M, K], uint8 or int8, any strides. One that comes again is made ready once.
class Rows {
 public:
  std::shared_ptr<const ReadyCodes> next(const Tensor& a, const Packed& b) {
    const bool is_signed = a.scalar_type() == at::kChar;
    TORCH_CHECK_VALUE(a.dim() == 2 && a.size(1) == b.k && (is_signed || a.scalar_type() == at::kByte),
                      "fixed_point_product: 8-bit codes [M, ", b.k, "] are needed");
    if (codes_ != nullptr && b.code_stride() == stride_ && a.is_alias_of(last_) &&
        a.storage_offset() == last_.storage_offset() && a.sizes() == last_.sizes() && a.strides() == last_.strides() &&
        a.scalar_type() == last_.scalar_type())
      return codes_;
    const bool as_columns = !a.is_contiguous() && a.t().is_contiguous();
    last_ = a, stride_ = b.code_stride();
    kept_.push_back(as_columns ? a : a.contiguous());
    const auto* codes = static_cast<const uint8_t*>(kept_.back().const_data_ptr());
    codes_ = std::make_shared<const ReadyCodes>(as_columns ? ReadyCodes::of_columns(codes, is_signed, a.size(0), b)
                                                           : ReadyCodes(codes, is_signed, a.size(0), b));
    return codes_;
  }

 private:
  Tensor last_;
  int64_t stride_ = 0;
  std::shared_ptr<const ReadyCodes> codes_;
  std::vector<Tensor> kept_;
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
    TORCH_CHECK_VALUE(b.dim() == 2 && b.scalar_type() == at::kChar,
                      "fixed_point_product: int8 codes [N, K] are needed as second factor");
    const bool transposed = !b.is_contiguous() && b.t().is_contiguous();
    const Tensor codes = transposed ? b : b.contiguous();
    own_.push_back(std::make_unique<FreeWeight>(codes.const_data_ptr<int8_t>(), b.size(0), b.size(1), transposed));
    return own_.back()->view();
  }

 private:
  at::TensorList packed_;
  std::vector<std::unique_ptr<FreeWeight>> own_;
};

// One product of a sum, both factors ready for the tiles.
struct Term {
  Packed weight;
  std::shared_ptr<const ReadyCodes> codes;
  std::vector<int32_t> column_terms;
  int64_t exponent;

  Term(const Tensor& a, const Tensor& b, int64_t exponent_, Rows& rows, Weights& weights)
      : weight(weights.next(b)),
        codes(rows.next(a, weight)),
        column_terms(qexp::column_terms(weight, a.scalar_type() == at::kChar ? 128 : 0, 0)),
        exponent(exponent_) {}

  double largest_sum() const { return 255.0 * 128.0 * static_cast<double>(weight.k + 1); }
};

// Terms with falling exponents whose sum, on the last one's step, is one int32.
class Group {
 public:
  Group(const Term& first, int64_t rows)
      : row_terms_(rows), column_terms_(first.column_terms.size()), exponent_(first.exponent) {
    add(first);
  }

  // Whether the sum of one more term could not leave int32.
  bool has_room(const Term& t) const { return bound_with(t) < 2147483648.0; }

  // What each row's and each column's raw sums lack, modulo 2^32, on the new step.
  void add(const Term& t) {
    const int64_t shift = exponent_ - t.exponent;
    bound_ = bound_with(t);
    exponent_ = t.exponent;
    factors_.push_back({t.codes->view(), t.weight, static_cast<int>(shift)});
    for (size_t m = 0; m < row_terms_.size(); ++m) {
      row_terms_[m] = (row_terms_[m] << shift) + static_cast<uint32_t>(t.codes->term(static_cast<int64_t>(m)));
    }
    for (size_t n = 0; n < column_terms_.size(); ++n) {
      column_terms_[n] = (column_terms_[n] << shift) + static_cast<uint32_t>(t.column_terms[n]);
    }
  }

  // The exact sums of a tile: [rows, 16].
  void sums(int64_t row, int64_t rows, int64_t panel, int32_t* out) const {
    multiply_tile(factors_.data(), static_cast<int64_t>(factors_.size()), row, rows, panel, out);
    const uint32_t* of_column = column_terms_.data() + panel * PANEL;
    for (int64_t r = 0; r < rows; ++r, out += PANEL) {
      const uint32_t of_row = row_terms_[row + r];
      for (int64_t c = 0; c < PANEL; ++c) {
        out[c] = static_cast<int32_t>(static_cast<uint32_t>(out[c]) + of_column[c] + of_row);
      }
    }
  }

  int64_t exponent() const { return exponent_; }

 private:
  double bound_with(const Term& t) const { return power_of_two(exponent_ - t.exponent) * bound_ + t.largest_sum(); }

  std::vector<Factors> factors_;
  std::vector<uint32_t> row_terms_, column_terms_;
  int64_t exponent_;
  double bound_ = 0.0;
};

// As few groups as int32 allows: most often one.
std::vector<Group> grouped(std::vector<Term>& terms, int64_t rows) {
  std::stable_sort(terms.begin(), terms.end(), [](const Term& a, const Term& b) { return a.exponent > b.exponent; });
  std::vector<Group> groups;
  for (const Term& t : terms) {
    if (!groups.empty() && groups.back().has_room(t)) {
      groups.back().add(t);
    } else {
      groups.emplace_back(t, rows);
    }
  }
  return groups;
}

// float32 [rows, 16]: one group in float32, several in double, rounded.
void add_up(const std::vector<Group>& groups, int64_t row, int64_t rows, int64_t panel, float* out) {
  alignas(32) int32_t sums[TILE_ROWS * PANEL];
  if (groups.size() == 1 && is_normal(groups[0].exponent())) {
    groups[0].sums(row, rows, panel, sums);
    return scale(sums, static_cast<float>(power_of_two(groups[0].exponent())), rows * PANEL, out);
  }
  alignas(32) double total[TILE_ROWS * PANEL] = {};
  for (const Group& g : groups) {
    g.sums(row, rows, panel, sums);
    accumulate(sums, power_of_two(g.exponent()), rows * PANEL, total);
  }
  round_all(total, rows * PANEL, out);
}

void multiply(std::vector<Term>& terms, int64_t all_rows, const std::vector<float>& bias, float* out) {
  const int64_t columns = terms[0].weight.n, panels = terms[0].weight.panel_count();
  int64_t depth = 0;
  for (const Term& t : terms) depth += t.weight.depth;
  const auto groups = grouped(terms, all_rows);
  for_each_place(all_rows, panels, depth, [&](int64_t row, int64_t rows, int64_t panel) {
    alignas(32) float values[TILE_ROWS * PANEL];
    add_up(groups, row, rows, panel, values);
    const int64_t first = panel * PANEL, count = std::min(PANEL, columns - first);
    for (int64_t r = 0; r < rows; ++r) {
      float *line = values + r * PANEL, *to = out + (row + r) * columns + first;
      if (!bias.empty()) add(bias.data() + first, PANEL, line);
      if (count == PANEL) {  // of a size known here: no call
        std::memcpy(to, line, PANEL * sizeof(float));
      } else {
        std::memcpy(to, line, count * sizeof(float));
      }
    }
  });
}

// float32([M, N] of sum_i 2^exponent_i * a_i b_i^T) + bias.
Tensor product(const Tensor& a, const Tensor& b, int64_t exponent, at::TensorList more_a, at::TensorList more_b,
               at::IntArrayRef more_exponents, const optional<Tensor>& bias, at::TensorList packed) {
  TORCH_CHECK_VALUE(more_a.size() == more_b.size() && more_a.size() == more_exponents.size(),
                    "fixed_point_product: each product has two factors and an exponent");
  Rows rows;
  Weights weights(packed);
  std::vector<Term> terms;
  terms.emplace_back(a, b, exponent, rows, weights);
  for (size_t i = 0; i < more_a.size(); ++i) {
    terms.emplace_back(more_a[i], more_b[i], more_exponents[i], rows, weights);
    TORCH_CHECK_VALUE(more_a[i].size(0) == a.size(0) && terms.back().weight.n == terms[0].weight.n,
                      "fixed_point_product: summands differ in shape");
  }
  const int64_t columns = terms[0].weight.n;
  const Tensor out = at::empty({a.size(0), columns}, a.options().dtype(at::kFloat));
  multiply(terms, a.size(0), padded_bias(bias, columns), out.mutable_data_ptr<float>());
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
  const Tensor out = at::empty({rows, columns}, sums[0].options().dtype(at::kFloat));
  const std::vector<float> bias = padded_bias(bias_, columns);
  const bool is_one = sums.size() == 1 && is_normal(exponents[0]);
  at::parallel_for(0, rows, GRAIN / std::max<int64_t>(columns, 1) + 1, [&](int64_t begin, int64_t end) {
    std::vector<double> total(is_one ? 0 : columns);
    for (int64_t m = begin; m < end; ++m) {
      float* line = out.mutable_data_ptr<float>() + m * columns;
      const auto from = [&](const Tensor& t) { return t.const_data_ptr<int32_t>() + m * columns; };
      if (is_one) {
        scale(from(sums[0]), static_cast<float>(power_of_two(exponents[0])), columns, line);
      } else {
        std::fill(total.begin(), total.end(), 0.0);
        for (size_t i = 0; i < sums.size(); ++i)
          accumulate(from(sums[i]), power_of_two(exponents[i]), columns, total.data());
        round_all(total.data(), columns, line);
      }
      if (!bias.empty()) add(bias.data(), columns, line);
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
