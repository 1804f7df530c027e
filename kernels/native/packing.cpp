// Packing of weights: the layout, the split that keeps 16-bit sums exact, and the choice of form.
#include "packing.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include <immintrin.h>

#pragma GCC target("avx2")

namespace qexp {
namespace {

constexpr int LIMIT = 128;  // 255 * 128 = 32640 fits 16 bits on either side of zero, 255 * 129 does not

// Time of one vector in each form, and of one vector of extras, relative to chain 1 (measured).
constexpr struct { int chain; double cost; } FORMS[] = {{0, 1.25}, {1, 1.0}, {2, 0.89}, {4, 0.86}};
constexpr double EXTRA_COST = 1.1;
constexpr int64_t PACK_GRAIN = 65536;  // weights that a thread packs at least

struct Extras {
  std::vector<int32_t> starts{0};
  std::vector<int32_t> groups;
  std::vector<int8_t> values;
};

// b [n, k] into panels that are zero.
void fill_panels(const int8_t* b, int64_t n, int64_t k, int8_t* panels) {
  const int64_t depth = round_up(k, DEPTH_UNIT), whole = k / 4 * 4;
  for (int64_t row = 0; row < n; ++row, b += k) {
    int8_t* column = panels + row / PANEL * PANEL * depth + row % PANEL * 4;
    for (int64_t i = 0; i < whole; i += 4) std::memcpy(column + i * PANEL, b + i, 4);
    std::copy(b + whole, b + k, column + whole * PANEL);
  }
}

// Four rows of 16 bytes as one vector of a panel, [16, 4].
void interleave(const int8_t* rows, int64_t stride, int8_t* to) {
  const auto row = [&](int64_t r) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + r * stride)); };
  const __m128i low = _mm_unpacklo_epi8(row(0), row(1)), high = _mm_unpackhi_epi8(row(0), row(1));
  const __m128i low2 = _mm_unpacklo_epi8(row(2), row(3)), high2 = _mm_unpackhi_epi8(row(2), row(3));
  auto* out = reinterpret_cast<__m128i*>(to);
  _mm_storeu_si128(out, _mm_unpacklo_epi16(low, low2));
  _mm_storeu_si128(out + 1, _mm_unpackhi_epi16(low, low2));
  _mm_storeu_si128(out + 2, _mm_unpacklo_epi16(high, high2));
  _mm_storeu_si128(out + 3, _mm_unpackhi_epi16(high, high2));
}

// The same of b [k, n], which lies transposed. Groups of four in k outside: they read what is one after another.
void fill_panels_transposed(const int8_t* b, int64_t n, int64_t k, int8_t* panels) {
  const int64_t depth = round_up(k, DEPTH_UNIT), groups = (k + 3) / 4, grain = PACK_GRAIN / std::max<int64_t>(n, 1) + 1;
  at::parallel_for(0, groups, grain, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      const int64_t rows = std::min<int64_t>(4, k - 4 * g);
      for (int64_t first = 0; first < n; first += PANEL) {
        const int8_t* from = b + 4 * g * n + first;
        int8_t* to = panels + first * depth + 4 * g * PANEL;
        if (rows == 4 && first + PANEL <= n) {
          interleave(from, n, to);
          continue;
        }
        int8_t room[4 * PANEL] = {};
        for (int64_t r = 0; r < rows; ++r) std::memcpy(room + r * PANEL, from + r * n, std::min(PANEL, n - first));
        interleave(room, PANEL, to);
      }
    }
  });
}

void sum_columns_transposed(const int8_t* b, int64_t n, int64_t k, int32_t* sums) {
  at::parallel_for(0, n, PACK_GRAIN / std::max<int64_t>(k, 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < k; ++row) {
      for (int64_t i = begin; i < end; ++i) sums[i] += b[row * n + i];
    }
  });
}

void sum_columns(const int8_t* b, int64_t n, int64_t k, int32_t* sums) {
  for (int64_t row = 0; row < n; ++row, b += k) sums[row] = std::accumulate(b, b + k, 0);
}

// Moves weights of one sign out of a 16-bit lane until those that stay sum up to LIMIT. w and moved: [chain, 16, 4].
void move_excess(int8_t* w, int8_t* moved, int chain, int sign) {
  int excess = -LIMIT;
  for (int c = 0; c < chain; ++c) {
    for (int e = 0; e < 2; ++e) excess += std::max(sign * w[c * PANEL * 4 + e], 0);
  }
  for (int c = 0; c < chain && excess > 0; ++c) {
    for (int e = 0; e < 2 && excess > 0; ++e) {
      const int i = static_cast<int>(c * PANEL * 4) + e;
      const int taken = std::min(excess, std::max(sign * w[i], 0));
      w[i] = static_cast<int8_t>(w[i] - sign * taken);
      moved[i] = static_cast<int8_t>(moved[i] + sign * taken);
      excess -= taken;
    }
  }
}

// Adds vectors [8, 4] to the extras until nothing of `moved` is left: one, or two where a pair holds more than LIMIT.
void emit(Extras& extras, int8_t* moved, int32_t group) {
  while (std::any_of(moved, moved + 32, [](int8_t v) { return v != 0; })) {
    extras.groups.push_back(group);
    for (int i = 0; i < 32; i += 2) {
      const int first = moved[i];
      const int second = std::clamp<int>(moved[i + 1], -LIMIT - std::min(first, 0), LIMIT - std::max(first, 0));
      extras.values.push_back(static_cast<int8_t>(first));
      extras.values.push_back(static_cast<int8_t>(second));
      moved[i] = 0;
      moved[i + 1] = static_cast<int8_t>(moved[i + 1] - second);
    }
  }
}

// One half panel's chains: takes out of `panels` what could overflow.
void split_half(int8_t* half, int64_t groups, int chain, Extras& extras) {
  for (int64_t g = 0; g < groups; g += chain) {
    int8_t moved[4 * PANEL * 4] = {};
    int8_t* w = half + g * PANEL * 4;
    for (int lane = 0; lane < 32; lane += 2) {
      move_excess(w + lane, moved + lane, chain, 1);
      move_excess(w + lane, moved + lane, chain, -1);
    }
    for (int c = 0; c < chain; ++c) emit(extras, moved + c * PANEL * 4, static_cast<int32_t>(g + c));
  }
}

Extras split(const at::Tensor& panels, int chain) {
  Extras extras;
  const int64_t groups = panels.size(1);
  int8_t* data = panels.mutable_data_ptr<int8_t>();
  for (int64_t half = 0; half < 2 * panels.size(0); ++half) {
    split_half(data + half / 2 * groups * PANEL * 4 + half % 2 * 32, groups, chain, extras);
    extras.starts.push_back(static_cast<int32_t>(extras.groups.size()));
  }
  return extras;
}

template <typename T>
at::Tensor tensor_of(const std::vector<T>& values, at::IntArrayRef shape, at::ScalarType type) {
  auto out = at::empty(shape, at::TensorOptions().dtype(type));
  if (!values.empty()) std::memcpy(out.mutable_data_ptr(), values.data(), values.size() * sizeof(T));
  return out;
}

std::vector<at::Tensor> assemble(const at::Tensor& b, const at::Tensor& panels, int chain, const Extras& extras) {
  auto sums = at::empty({b.size(0)}, b.options().dtype(at::kInt));
  sum_columns(b.const_data_ptr<int8_t>(), b.size(0), b.size(1), sums.mutable_data_ptr<int32_t>());
  const auto count = static_cast<int64_t>(extras.groups.size());
  const auto starts = static_cast<int64_t>(extras.starts.size());
  const std::vector<int32_t> form{static_cast<int32_t>(b.size(1)), chain};
  return {panels,
          sums,
          tensor_of(form, {2}, at::kInt),
          tensor_of(extras.starts, {starts}, at::kInt),
          tensor_of(extras.groups, {count}, at::kInt),
          tensor_of(extras.values, {count, 8, 4}, at::kChar)};
}

std::vector<at::Tensor> pack(const at::Tensor& b, std::optional<int64_t> chain) {
  TORCH_CHECK_VALUE(b.dim() == 2 && b.scalar_type() == at::kChar, "int8_pack: an int8 weight [N, K] is needed");
  return chain.has_value() ? pack_as(b.contiguous(), static_cast<int>(*chain)) : pack_fastest(b.contiguous());
}

at::Tensor unpack(at::TensorList packed) {
  const Packed p = view_packed(packed);
  auto out = at::empty({p.n, p.k}, packed[0].options());
  int8_t* to = out.mutable_data_ptr<int8_t>();
  for (int64_t n = 0; n < p.n; ++n) {
    const int8_t* column = p.panels + n / PANEL * PANEL * p.depth + n % PANEL * 4;
    for (int64_t k = 0; k < p.k; ++k) to[n * p.k + k] = column[k / 4 * PANEL * 4 + k % 4];
    for (int32_t e = p.starts[n / 8]; p.chain != 0 && e < p.starts[n / 8 + 1]; ++e) {
      const int64_t first = 4 * static_cast<int64_t>(p.groups[e]);
      const int8_t* extra = p.extras + 32 * static_cast<int64_t>(e) + n % 8 * 4 - first;
      for (int64_t k = first; k < std::min(first + 4, p.k); ++k) to[n * p.k + k] += extra[k];
    }
  }
  return out;
}

}  // namespace

FreeWeight::FreeWeight(const int8_t* b, int64_t n, int64_t k, bool transposed)
    : n_(n), k_(k), depth_(round_up(k, DEPTH_UNIT)), panels_(round_up(n, PANEL) * depth_), sums_(n) {
  (transposed ? fill_panels_transposed : fill_panels)(b, n, k, panels_.data());
  (transposed ? sum_columns_transposed : sum_columns)(b, n, k, sums_.data());
}

std::vector<at::Tensor> pack_as(const at::Tensor& b, int chain) {
  TORCH_CHECK_VALUE(chain == 0 || chain == 1 || chain == 2 || chain == 4, "int8_pack: no form has chains of ", chain);
  const int64_t n = b.size(0), k = b.size(1);
  auto panels = at::zeros({round_up(n, PANEL) / PANEL, round_up(k, DEPTH_UNIT) / 4, PANEL, 4}, b.options());
  fill_panels(b.const_data_ptr<int8_t>(), n, k, panels.mutable_data_ptr<int8_t>());
  const Extras extras = chain == 0 ? Extras() : split(panels, chain);
  return assemble(b, panels, chain, extras);
}

std::vector<at::Tensor> pack_fastest(const at::Tensor& b) {
  std::vector<at::Tensor> fastest;
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [chain, cost] : FORMS) {
    auto packed = pack_as(b, chain);
    const auto bytes = static_cast<double>(packed[0].numel()), extra_bytes = static_cast<double>(packed[5].numel());
    const double time = cost * bytes + EXTRA_COST * extra_bytes;
    if (time < least) {
      least = time;
      fastest = std::move(packed);
    }
  }
  return fastest;
}

Packed view_packed(at::TensorList tensors) {
  TORCH_CHECK_VALUE(tensors.size() == 6 && tensors[0].dim() == 4 && tensors[2].numel() == 2,
                    "not what int8_pack returned");
  const int32_t* form = tensors[2].const_data_ptr<int32_t>();
  return {tensors[0].const_data_ptr<int8_t>(),
          tensors[1].const_data_ptr<int32_t>(),
          tensors[3].const_data_ptr<int32_t>(),
          tensors[4].const_data_ptr<int32_t>(),
          tensors[5].const_data_ptr<int8_t>(),
          tensors[1].numel(),
          form[0],
          tensors[0].size(1) * 4,
          form[1]};
}

}  // namespace qexp

TORCH_LIBRARY_FRAGMENT(qexp, m) {
  m.def("int8_pack(Tensor b, int? chain=None) -> Tensor[]");
  m.def("int8_unpack(Tensor[] packed) -> Tensor");
}

TORCH_LIBRARY_IMPL(qexp, CPU, m) {
  m.impl("int8_pack", qexp::pack);
  m.impl("int8_unpack", qexp::unpack);
}
