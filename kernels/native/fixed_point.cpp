// Floats to dynamic fixed point in one pass, and the magnitudes that settle the exponent: the bits that torch's
// operators give.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cstring>
#include <tuple>
#include <vector>

#include "elementwise.h"

namespace qexp {
namespace {

using at::Tensor;
using std::optional;

constexpr uint32_t GOLDEN = 0x9E3779B9u;

// 24 bits drawn for a position: kernels/fixed_point/randomness.py. h is position * GOLDEN + seed.
inline uint32_t chance(uint32_t h) {
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
  uint32_t place = static_cast<uint32_t>(begin) * GOLDEN + m.seed;
  for (int64_t i = begin; i < end; ++i) {
    float steps = x[i] * inverse_step;
    if constexpr (random) {
      const float below = std::floor(steps);
      // Signed, since only that has a vector instruction that makes it a float.
      const auto drawn = static_cast<float>(static_cast<int32_t>(chance(place)));
      place += GOLDEN;
      steps = below + (drawn < (steps - below) * 16777216.0f ? 1.0f : 0.0f);
    } else {
      steps = std::rint(steps);
    }
    steps = clamp(steps, -top, top);
    steps = std::fabs(x[i]) <= limit ? steps : 0.0f;
    codes[i] = static_cast<Code>(static_cast<int32_t>(steps));
  }
}

template <class Code>
void zero_columns(const Tensor& columns, int64_t rows, int64_t width, Code* codes) {
  const auto* which = columns.const_data_ptr<int64_t>();
  for (int64_t m = 0; m < rows; ++m, codes += width) {
    for (int64_t i = 0; i < columns.numel(); ++i) codes[which[i]] = 0;
  }
}

// clamp(round(x * 2^-exponent), -top, top), nearest or drawn from `seed`; 0 where |x| > limit, and in the columns
// `zeroed` of a matrix. int8, or int16 for a larger top.
Tensor map(const Tensor& x_, int64_t exponent, int64_t top, double limit, optional<int64_t> seed,
           const optional<Tensor>& zeroed) {
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
    if (zeroed.has_value()) zero_columns(zeroed->contiguous(), x.size(0), x.size(1), to);
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

// What one pass over x [M, K] tells of its outliers, |x| > limit: the columns that have one (ascending), the largest
// |x| (NaN if there is one), and the largest that stays: of inliers or, `by_column`, of columns without outliers.
std::tuple<Tensor, double, double> outliers(const Tensor& x_, double limit, bool by_column) {
  TORCH_CHECK_TYPE(x_.scalar_type() == at::kFloat, "fixed_point_outliers takes float32, not ", x_.scalar_type());
  TORCH_CHECK_VALUE(x_.dim() == 2, "fixed_point_outliers takes a matrix, not ", x_.sizes());
  const Tensor x = x_.contiguous();
  const int64_t rows = x.size(0), width = x.size(1);
  const float* from = x.const_data_ptr<float>();
  const auto most = static_cast<float>(limit);
  std::vector<int32_t> largest(width), within(width);
  at::parallel_for(0, width, GRAIN / std::max<int64_t>(rows, 1) + 1, [&](int64_t begin, int64_t end) {
    int32_t *__restrict all = largest.data(), *__restrict inliers = within.data();
    for (int64_t m = 0; m < rows; ++m) {
      const float* row = from + m * width;
      for (int64_t k = begin; k < end; ++k) {
        const int32_t bits = magnitude_bits(row, k);
        all[k] = std::max(all[k], bits);
        inliers[k] = std::max(inliers[k], as_float(bits) <= most ? bits : 0);
      }
    }
  });
  std::vector<int64_t> columns;
  int32_t of_all = 0, kept = 0;
  for (int64_t k = 0; k < width; ++k) {
    const bool is_outlier = as_float(largest[k]) > most;
    if (is_outlier) columns.push_back(k);
    of_all = std::max(of_all, largest[k]);
    if (!(by_column && is_outlier)) kept = std::max(kept, within[k]);
  }
  const Tensor found = at::empty({static_cast<int64_t>(columns.size())}, x.options().dtype(at::kLong));
  std::copy(columns.begin(), columns.end(), found.mutable_data_ptr<int64_t>());
  return {found, as_float(of_all), as_float(kept)};
}

// As int32 while no sum of so many rows can leave it, whatever the codes.
constexpr int64_t ROWS_IN_INT32 = 65535;

template <class Code>
void add_rows(const Code* codes, int64_t rows, int64_t width, int64_t begin, int64_t end, int64_t* __restrict out) {
  std::vector<int32_t> room(end - begin);
  int32_t* __restrict sums = room.data();
  for (int64_t m = 0; m < rows;) {
    std::fill(room.begin(), room.end(), 0);
    for (const int64_t last = std::min(m + ROWS_IN_INT32, rows); m < last; ++m) {
      const Code* row = codes + m * width + begin;
      for (int64_t n = 0; n < end - begin; ++n) sums[n] += row[n];
    }
    for (int64_t n = 0; n < end - begin; ++n) out[begin + n] += sums[n];
  }
}

// int64 sums of each column of codes [M, N].
Tensor column_sums(const Tensor& codes_) {
  TORCH_CHECK_VALUE(codes_.dim() == 2, "fixed_point_column_sums takes a matrix, not ", codes_.sizes());
  const Tensor codes = codes_.contiguous(), out = at::zeros({codes.size(1)}, codes.options().dtype(at::kLong));
  const int64_t rows = codes.size(0), width = codes.size(1);
  auto* to = out.mutable_data_ptr<int64_t>();
  const auto add = [&](const auto* from) {
    at::parallel_for(0, width, GRAIN / std::max<int64_t>(rows, 1) + 1,
                     [&](int64_t begin, int64_t end) { add_rows(from, rows, width, begin, end, to); });
  };
  switch (codes.scalar_type()) {
    case at::kChar: add(codes.const_data_ptr<int8_t>()); break;
    case at::kByte: add(codes.const_data_ptr<uint8_t>()); break;
    case at::kShort: add(codes.const_data_ptr<int16_t>()); break;
    default: TORCH_CHECK_TYPE(false, "fixed_point_column_sums takes codes, not ", codes.scalar_type());
  }
  return out;
}

TORCH_LIBRARY_FRAGMENT(qexp, m) {
  m.def("fixed_point_map(Tensor x, int exponent, int top, float limit, int? seed, Tensor? zeroed) -> Tensor");
  m.def("fixed_point_magnitude(Tensor x) -> float");
  m.def("fixed_point_outliers(Tensor x, float limit, bool by_column) -> (Tensor, float, float)");
  m.def("fixed_point_column_sums(Tensor codes) -> Tensor");
}

TORCH_LIBRARY_IMPL(qexp, CPU, m) {
  m.impl("fixed_point_map", map);
  m.impl("fixed_point_magnitude", magnitude);
  m.impl("fixed_point_outliers", outliers);
  m.impl("fixed_point_column_sums", column_sums);
}

}  // namespace
}  // namespace qexp
