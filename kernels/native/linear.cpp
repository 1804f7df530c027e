// int8_linear: a float layer in integers. Quantize, multiply, correct, rescale, and quantize again, each number once.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <atomic>

#include "codes.h"
#include "packing.h"
#include "tasks.h"

#include <immintrin.h>

#pragma GCC target("avx2,fma")

namespace qexp {
namespace {

using at::Tensor;
using std::optional;

// A grid per tensor: its ends less the zero point, since rounding and clamping come before the zero point is added.
struct Grid {
  float scale, low, high;
  int32_t zero_point;
  bool is_signed;

  Grid(double scale_, int64_t zero_point_, int64_t qmin, int64_t qmax)
      : scale(static_cast<float>(scale_)),
        low(static_cast<float>(qmin - zero_point_)),
        high(static_cast<float>(qmax - zero_point_)),
        zero_point(static_cast<int32_t>(zero_point_)),
        is_signed(qmin < 0) {
    TORCH_CHECK_VALUE(qmin <= qmax && qmin >= -128 && qmax <= (is_signed ? 127 : 255),
                      "int8_linear: codes must fit int8 or uint8, the grid is [", qmin, ", ", qmax, "]");
  }

  int32_t lift() const { return is_signed ? 128 : 0; }
};

inline __m256 steps(__m256 x, const Grid& g) {
  constexpr int half_even = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m256 rounded = _mm256_round_ps(_mm256_div_ps(x, _mm256_set1_ps(g.scale)), half_even);
  return _mm256_min_ps(_mm256_max_ps(rounded, _mm256_set1_ps(g.low)), _mm256_set1_ps(g.high));
}

// 32 floats to unsigned codes; `bad` collects where x - x is not 0, as for NaN and infinity.
inline void quantize_32(const float* x, const Grid& g, uint8_t* codes, __m256& bad) {
  __m256i q[4];
  const __m256i offset = _mm256_set1_epi32(g.zero_point + g.lift());
  for (int i = 0; i < 4; ++i) {
    const __m256 v = _mm256_loadu_ps(x + 8 * i);
    bad = _mm256_or_ps(bad, _mm256_cmp_ps(_mm256_sub_ps(v, v), _mm256_setzero_ps(), _CMP_NEQ_UQ));
    q[i] = _mm256_add_epi32(_mm256_cvtps_epi32(steps(v, g)), offset);
  }
  const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm256_permutevar8x32_epi32(bytes, order));
}

// A row of k floats to unsigned codes, in room for k rounded up to 32. Returns whether all were finite.
bool quantize_row(const float* x, int64_t k, const Grid& g, uint8_t* codes) {
  __m256 bad = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + 32 <= k; i += 32) quantize_32(x + i, g, codes + i, bad);
  if (i < k) {
    float rest[32] = {};
    std::copy(x + i, x + k, rest);
    quantize_32(rest, g, codes + i, bad);
  }
  return _mm256_movemask_ps(bad) == 0;
}

// Fills `a`, and `row_sums` [m] (where not empty) with the sums of code - zero point.
void quantize_input(const float* x, int64_t rows, int64_t k, const Grid& g, ReadyCodes& a,
                    std::vector<int32_t>& row_sums) {
  std::atomic<bool> finite{true};
  const auto shift = static_cast<int32_t>(g.lift() + g.zero_point);
  at::parallel_for(0, rows, ROW_GRAIN / std::max<int64_t>(k, 1) + 1, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> codes(round_up(k, 32));
    for (int64_t m = begin; m < end; ++m) {
      if (!quantize_row(x + m * k, k, g, codes.data())) finite = false;
      if (!row_sums.empty()) row_sums[m] = sum_codes(codes.data(), k) - static_cast<int32_t>(k) * shift;
      a.write(m, codes.data());
    }
  });
  TORCH_CHECK_VALUE(finite, "NaN or infinity in the input");
}

// A value for each column, in room for whole panels: `given` is [n], a single value for all, or absent.
template <class T>
std::vector<T> each_column(const optional<Tensor>& given, int64_t n, at::ScalarType type, const char* name) {
  std::vector<T> out(round_up(n, PANEL));
  if (!given.has_value()) return out;
  TORCH_CHECK_TYPE(given->scalar_type() == type, "int8_linear: ", name, " must be ", type);
  TORCH_CHECK_VALUE(given->numel() == n || given->numel() == 1, "int8_linear: ", name, " must have 1 or ", n,
                    " elements");
  const auto values = given->contiguous();
  const T* from = values.template const_data_ptr<T>();
  for (int64_t i = 0; i < n; ++i) out[i] = from[values.numel() == 1 ? 0 : i];
  return out;
}

// From the raw sums of eight columns to what the layer returns.
struct Epilogue {
  std::vector<int32_t> column_terms, weight_zeros, row_sums;
  std::vector<float> scale, bias;
  optional<Grid> output;
  bool has_bias;

  __m256 value(const int32_t* sums, int32_t row_term, int64_t row, int64_t column) const {
    __m256i acc = _mm256_add_epi32(load(sums), load(column_terms.data() + column));
    acc = _mm256_add_epi32(acc, _mm256_set1_epi32(row_term));
    if (!row_sums.empty()) {
      const __m256i zeros = load(weight_zeros.data() + column);
      acc = _mm256_sub_epi32(acc, _mm256_mullo_epi32(zeros, _mm256_set1_epi32(row_sums[row])));
    }
    __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(acc), _mm256_loadu_ps(scale.data() + column));
    if (has_bias) y = _mm256_add_ps(y, _mm256_loadu_ps(bias.data() + column));
    return output.has_value() ? steps(y, *output) : y;
  }

  void store(__m256 y, float* to) const {
    if (output.has_value()) y = _mm256_mul_ps(y, _mm256_set1_ps(output->scale));
    _mm256_storeu_ps(to, y);
  }

  // Codes as bytes; int8 and uint8 have the same bits.
  void store(__m256 y, uint8_t* to) const {
    int32_t codes[8];
    const __m256i q = _mm256_add_epi32(_mm256_cvtps_epi32(y), _mm256_set1_epi32(output->zero_point));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), q);
    for (int i = 0; i < 8; ++i) to[i] = static_cast<uint8_t>(codes[i]);
  }

  static __m256i load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
};

template <class T>
void multiply(const ReadyCodes& a, const Packed& b, const Epilogue& e, T* out) {
  for_each_tile(a.view(), b, [&](int64_t row, int64_t rows, int64_t panel, const int32_t* sums) {
    const int64_t first = panel * PANEL, columns = std::min(PANEL, b.n - first);
    for (int64_t r = row; r < row + rows; ++r, sums += PANEL) {
      T* to = out + r * b.n + first;
      T room[PANEL];
      T* whole = columns == PANEL ? to : room;
      e.store(e.value(sums, a.term(r), r, first), whole);
      e.store(e.value(sums + 8, a.term(r), r, first + 8), whole + 8);
      if (whole == room) std::copy(room, room + columns, to);
    }
  });
}

Tensor linear(const Tensor& x, at::TensorList packed, double input_scale, int64_t input_zero_point, int64_t input_min,
              int64_t input_max, const Tensor& scale, const optional<Tensor>& weight_zero_point,
              const optional<Tensor>& bias, optional<double> output_scale, int64_t output_zero_point,
              int64_t output_min, int64_t output_max, bool codes) {
  const Packed b = view_packed(packed);
  TORCH_CHECK_TYPE(x.scalar_type() == at::kFloat, "int8_linear: float32 input is needed");
  TORCH_CHECK_VALUE(x.dim() == 2 && x.size(1) == b.k, "int8_linear: an input [M, ", b.k, "] is needed");
  TORCH_CHECK_VALUE(output_scale.has_value() || !codes, "int8_linear: codes need an output grid");
  const Grid input(input_scale, input_zero_point, input_min, input_max);
  const int64_t rows = x.size(0);
  Epilogue e{column_terms(b, input.lift(), input.zero_point),
             each_column<int32_t>(weight_zero_point, b.n, at::kInt, "weight_zero_point"),
             std::vector<int32_t>(weight_zero_point.has_value() ? rows : 0),
             each_column<float>(scale, b.n, at::kFloat, "scale"),
             each_column<float>(bias, b.n, at::kFloat, "bias"),
             std::nullopt,
             bias.has_value()};
  if (output_scale.has_value()) e.output.emplace(*output_scale, output_zero_point, output_min, output_max);
  const Tensor from = x.contiguous();
  ReadyCodes a(rows, b);
  quantize_input(from.const_data_ptr<float>(), rows, b.k, input, a, e.row_sums);
  const auto type = !codes ? at::kFloat : e.output->is_signed ? at::kChar : at::kByte;
  Tensor out = at::empty({rows, b.n}, x.options().dtype(type));
  if (codes) {
    multiply(a, b, e, static_cast<uint8_t*>(out.mutable_data_ptr()));
  } else {
    multiply(a, b, e, out.mutable_data_ptr<float>());
  }
  return out;
}

}  // namespace
}  // namespace qexp

TORCH_LIBRARY_FRAGMENT(qexp, m) {
  m.def(
      "int8_linear(Tensor x, Tensor[] packed, float input_scale, int input_zero_point, int input_min, int input_max, "
      "Tensor scale, Tensor? weight_zero_point=None, Tensor? bias=None, float? output_scale=None, "
      "int output_zero_point=0, int output_min=0, int output_max=0, bool codes=False) -> Tensor");
}

TORCH_LIBRARY_IMPL(qexp, CPU, m) { m.impl("int8_linear", qexp::linear); }
