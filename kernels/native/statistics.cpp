// The moments, largest magnitudes and outliers of kernels/statistics.py. A row is read from memory once and stays in
// the cache for its second look: the mean must be known before the moments about it.
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <array>
#include <mutex>
#include <tuple>
#include <vector>

#include "elementwise.h"

namespace qexp {
namespace {

using at::Tensor;
using std::optional;

constexpr int LANES = 8;  // sums side by side, in double: as many as the compiler keeps in vectors

struct Sum {
  std::array<double, LANES> lanes{};
  double total() const {
    double sum = 0.0;
    for (double lane : lanes) sum += lane;
    return sum;
  }
};

// The larger number, or NaN if there is one.
inline float larger(float a, float b) { return b > a || b != b ? b : a; }

// The positions of one row that count: run(first element, count of elements) for each stretch of neighbours.
struct Row {
  const float* values;
  const bool* mask;  // of each position, or null
  int64_t positions, width;

  template <class Run>
  void for_each_stretch(const Run& run) const {
    if (mask == nullptr) return run(values, positions * width);
    for (int64_t p = 0, first; p < positions; ++p) {
      for (first = p; p < positions && mask[p]; ++p) {
      }
      if (p > first) run(values + first * width, (p - first) * width);
    }
  }

  int64_t count() const {
    int64_t n = 0;
    for_each_stretch([&](const float*, int64_t length) { n += length; });
    return n;
  }
};

// What is gathered over rows; its parts can be united in any order with the same result.
struct Dimensions {
  std::vector<float> largest;
  std::vector<int64_t> outliers;

  explicit Dimensions(int64_t width) : largest(width), outliers(width) {}

  void unite(const float* magnitudes, const int64_t* counts) {
    for (size_t j = 0; j < largest.size(); ++j) {
      largest[j] = larger(largest[j], magnitudes[j]);
      outliers[j] += counts[j];
    }
  }
};

double mean(const Row& row, int64_t n) {
  Sum sum;
  row.for_each_stretch([&](const float* x, int64_t length) {
    int64_t i = 0;
    for (; i + LANES <= length; i += LANES)
      for (int l = 0; l < LANES; ++l) sum.lanes[l] += x[i + l];
    for (; i < length; ++i) sum.lanes[0] += x[i];
  });
  return sum.total() / static_cast<double>(n);
}

void largest_by_dimension(const Row& row, float* largest) {
  row.for_each_stretch([&](const float* x, int64_t length) {
    for (int64_t i = 0; i < length; i += row.width)
      for (int64_t j = 0; j < row.width; ++j) largest[j] = larger(largest[j], std::fabs(x[i + j]));
  });
}

// Sums of the second and fourth powers about the centre.
std::tuple<double, double> powers(const Row& row, double centre) {
  Sum second, fourth;
  const auto add = [&](int l, float v) {
    const double c = v - centre, square = c * c;
    second.lanes[l] += square;
    fourth.lanes[l] += square * square;
  };
  row.for_each_stretch([&](const float* x, int64_t length) {
    int64_t i = 0;
    for (; i + LANES <= length; i += LANES)
      for (int l = 0; l < LANES; ++l) add(l, x[i + l]);
    for (; i < length; ++i) add(0, x[i]);
  });
  return {second.total(), fourth.total()};
}

void count_outliers(const Row& row, double centre, double bound, int64_t* outliers) {
  row.for_each_stretch([&](const float* x, int64_t length) {
    for (int64_t i = 0; i < length; i += row.width)
      for (int64_t j = 0; j < row.width; ++j) {
        const double c = x[i + j] - centre;
        outliers[j] += c * c > bound;
      }
  });
}

// Rows that count, values, largest magnitude, kurtosis with and without epsilon, standard deviation.
using Figures = std::array<double, 6>;

Figures figures_of(const Row& row, double epsilon, double stds, float* largest, int64_t* outliers) {
  const int64_t n = row.count();
  if (n == 0) return {};
  largest_by_dimension(row, largest);
  float magnitude = 0.0f;
  for (int64_t j = 0; j < row.width; ++j) magnitude = larger(magnitude, largest[j]);
  const double centre = mean(row, n);
  const auto [second, fourth] = powers(row, centre);
  const double variance = second / static_cast<double>(std::max<int64_t>(n - 1, 1)), bound = stds * stds * variance;
  const double farthest = magnitude + std::fabs(centre);
  if (!(farthest * farthest <= bound)) count_outliers(row, centre, bound, outliers);
  const double power = variance * variance;
  // In float32 as in torch's operators: 0 for a row whose values are all but equal.
  const bool spread = static_cast<float>(variance) * static_cast<float>(variance) > 0.0f;
  const double of_fourth = fourth / static_cast<double>(n);
  return {1.0,
          static_cast<double>(n),
          magnitude,
          of_fourth / (power + epsilon),
          spread ? of_fourth / power : 0.0,
          std::sqrt(variance)};
}

std::tuple<Tensor, Tensor, Tensor> row_statistics(const Tensor& rows_, const optional<Tensor>& mask_, double epsilon,
                                                  double stds) {
  TORCH_CHECK_TYPE(rows_.scalar_type() == at::kFloat && rows_.dim() == 3, "row statistics take float32 [R, P, d]");
  const Tensor rows = rows_.contiguous(), mask = mask_ ? mask_->contiguous() : Tensor();
  const int64_t count = rows.size(0), positions = rows.size(1), width = rows.size(2);
  if (mask.defined())
    TORCH_CHECK_VALUE(mask.scalar_type() == at::kBool && mask.numel() == count * positions, "the mask is bool [R, P]");
  std::vector<Figures> figures(count);
  Dimensions dimensions(width);
  std::mutex uniting;
  const int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, positions * width));
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    Dimensions mine(width);
    for (int64_t r = begin; r < end; ++r) {
      std::vector<float> largest(width);
      std::vector<int64_t> outliers(width);
      const bool* counts = mask.defined() ? mask.const_data_ptr<bool>() + r * positions : nullptr;
      const Row row{rows.const_data_ptr<float>() + r * positions * width, counts, positions, width};
      figures[r] = figures_of(row, epsilon, stds, largest.data(), outliers.data());
      mine.unite(largest.data(), outliers.data());
    }
    const std::lock_guard<std::mutex> guard(uniting);
    dimensions.unite(mine.largest.data(), mine.outliers.data());
  });
  const Tensor sums = at::zeros({6}, rows.options().dtype(at::kDouble)), largest = at::zeros({width}, rows.options()),
               outliers = at::zeros({width}, rows.options().dtype(at::kLong));
  for (const Figures& row : figures)
    for (size_t i = 0; i < row.size(); ++i) sums.mutable_data_ptr<double>()[i] += row[i];
  std::copy(dimensions.largest.begin(), dimensions.largest.end(), largest.mutable_data_ptr<float>());
  std::copy(dimensions.outliers.begin(), dimensions.outliers.end(), outliers.mutable_data_ptr<int64_t>());
  return {sums, largest, outliers};
}

TORCH_LIBRARY_FRAGMENT(qexp, m) {
  m.def("row_statistics(Tensor rows, Tensor? mask, float epsilon, float stds) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(qexp, CPU, m) { m.impl("row_statistics", row_statistics); }

}  // namespace
}  // namespace qexp
