// From exact int32 sums to the numbers that a linear layer returns, in one pass over the sums.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "elementwise.h"

namespace qexp {
namespace {

using at::Tensor;
using std::optional;

// A tensor of numbers for rows, for columns, or for both, read as the [M, N] that it broadcasts to.
template <class T>
struct Table {
  Tensor kept;
  const T* data = nullptr;
  int64_t row_stride = 0, column_stride = 0;

  Table(const optional<Tensor>& t, int64_t rows, int64_t columns) {
    if (!t.has_value()) return;
    kept = t->expand({rows, columns});
    data = kept.const_data_ptr<T>();
    row_stride = kept.stride(0), column_stride = kept.stride(1);
  }

  // Columns begin, begin + 1, .. of one row, in memory of the caller's where they are not so already.
  const T* row(int64_t m, std::vector<T>& room) const {
    const T* from = data + m * row_stride;
    if (column_stride == 1) return from;
    for (size_t n = 0; n < room.size(); ++n) room[n] = from[n * column_stride];
    return room.data();
  }
};

void correct(const int32_t* sums, uint32_t of_row, const int32_t* of_column, int64_t count, int32_t* out) {
  for (int64_t n = 0; n < count; ++n)
    out[n] = static_cast<int32_t>(static_cast<uint32_t>(sums[n]) - of_row * static_cast<uint32_t>(of_column[n]));
}

// y[m, n] = float32(acc - input_zero_point * column_sums - row_sums * weight_zero_point) * scale + bias. The integer
// terms may leave int32 and wrap round, which the whole undoes: it is exact modulo 2^32 and fits.
Tensor rescale(const Tensor& acc_, const Tensor& scale_, const Tensor& input_zero_point, const Tensor& column_sums,
               const optional<Tensor>& weight_zero_point, const optional<Tensor>& row_sums,
               const optional<Tensor>& bias_) {
  TORCH_CHECK_TYPE(acc_.scalar_type() == at::kInt && acc_.dim() == 2, "rescale takes int32 sums [M, N]");
  TORCH_CHECK_VALUE(weight_zero_point.has_value() == row_sums.has_value(), "row sums go with weight zero points");
  const Tensor acc = acc_.contiguous(), y = at::empty(acc.sizes(), acc.options().dtype(at::kFloat));
  const int64_t rows = acc.size(0), columns = acc.size(1);
  const Table<float> scale{scale_, rows, columns}, bias{bias_, rows, columns};
  const Table<int32_t> of_column{column_sums, rows, columns}, zero{input_zero_point, rows, columns},
      of_row{row_sums, rows, columns}, weight_zero{weight_zero_point, rows, columns};
  const int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, columns));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> scales(columns), biases(columns);
    std::vector<int32_t> sums(columns), terms(columns);
    for (int64_t m = begin; m < end; ++m) {
      const auto z = static_cast<uint32_t>(zero.data[m * zero.row_stride]);
      correct(acc.const_data_ptr<int32_t>() + m * columns, z, of_column.row(m, terms), columns, sums.data());
      if (of_row.data != nullptr) {
        const auto r = static_cast<uint32_t>(of_row.data[m * of_row.row_stride]);
        correct(sums.data(), r, weight_zero.row(m, terms), columns, sums.data());
      }
      const float* s = scale.row(m, scales);
      float* to = y.mutable_data_ptr<float>() + m * columns;
      for (int64_t n = 0; n < columns; ++n) to[n] = static_cast<float>(sums[n]) * s[n];
      if (bias.data == nullptr) continue;
      const float* b = bias.row(m, biases);
      for (int64_t n = 0; n < columns; ++n) to[n] += b[n];
    }
  });
  return y;
}

TORCH_LIBRARY_FRAGMENT(qexp, m) {
  m.def(
      "rescale(Tensor acc, Tensor scale, Tensor input_zero_point, Tensor column_sums, Tensor? weight_zero_point, "
      "Tensor? row_sums, Tensor? bias) -> Tensor");
}

TORCH_LIBRARY_IMPL(qexp, CPU, m) { m.impl("rescale", rescale); }

}  // namespace
}  // namespace qexp
