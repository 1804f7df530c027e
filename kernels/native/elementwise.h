// How a grid's tensors lie over a tensor's elements, and the arithmetic of one element.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>

#pragma GCC target("avx2,fma")

namespace qexp {

constexpr int64_t GRAIN = 32768;  // elements a thread takes at least, as in torch's own operators

// x seen as [outer, channels, inner] with one grid for each channel; one channel if the grid is per tensor.
struct Layout {
  int64_t channels, inner, total;
};

inline Layout layout_of(const at::Tensor& x, const at::Tensor& scale) {
  if (scale.numel() == 1) return {1, x.numel(), x.numel()};
  const int64_t shift = x.dim() - scale.dim();
  int64_t first = 0, last = scale.dim() - 1;
  while (scale.size(first) == 1) ++first;
  while (scale.size(last) == 1) --last;
  int64_t channels = 1, inner = 1;
  for (int64_t d = first; d <= last; ++d) {
    TORCH_CHECK_VALUE(shift + d >= 0 && scale.size(d) == x.size(shift + d), "a grid of shape ", scale.sizes(),
                      " does not lie over a tensor of shape ", x.sizes());
    channels *= scale.size(d);
  }
  for (int64_t d = last + 1; d < scale.dim(); ++d) inner *= x.size(shift + d);
  return {channels, inner, x.numel()};
}

// run(start, count, channel) over stretches of elements that share a grid or, if inner is 1, have consecutive ones.
template <class Run>
void for_each_stretch(const Layout& l, const Run& run) {
  const int64_t period = l.inner > 1 ? l.inner : l.channels;
  at::parallel_for(0, l.total, GRAIN, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin, count; i < end; i += count) {
      count = std::min(period - i % period, end - i);
      run(i, count, l.inner > 1 ? i / l.inner % l.channels : i % l.channels);
    }
  });
}

// A value for each element (each = true) or one for all of a stretch.
template <bool each>
inline float pick(const float* values, int64_t i) {
  return values[each ? i : 0];
}

// NaN stays NaN.
inline float clamp(float v, float low, float high) {
  v = v < low ? low : v;
  return v > high ? high : v;
}

inline bool not_finite(float v) { return !(std::fabs(v) <= std::numeric_limits<float>::max()); }

}  // namespace qexp
