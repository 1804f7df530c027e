// A whole product as tasks for torch's threads: every task is a panel of columns by a block of rows.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "gemm.h"

namespace qexp {

constexpr int64_t TASK_WORK = 1 << 19;  // multiplications below which a second thread costs more than it saves

// What each column's raw sums lack, for whole panels: they are sums of (code + lift, less 128 in the free form), where
// sums of (code - zero_point) are wanted.
inline std::vector<int32_t> column_terms(const Packed& b, int32_t lift, int32_t zero_point) {
  const auto factor = static_cast<uint32_t>((b.chain == 0 ? 128 : 0) - lift - zero_point);
  std::vector<int32_t> terms(b.panel_count() * PANEL);
  for (int64_t n = 0; n < b.n; ++n) terms[n] = static_cast<int32_t>(factor * static_cast<uint32_t>(b.sums[n]));
  return terms;
}

// run(row, rows, panel) for every tile, up to 4 rows by 16 columns; `depth` is how many products each of its sums has.
template <class Run>
void for_each_place(int64_t all_rows, int64_t panels, int64_t depth, const Run& run) {
  const int64_t blocks = (all_rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
  const int64_t work = std::min(all_rows, BLOCK_ROWS) * PANEL * depth;
  at::parallel_for(0, blocks * panels, TASK_WORK / std::max<int64_t>(work, 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task / panels * BLOCK_ROWS, last = std::min(first + BLOCK_ROWS, all_rows);
      for (int64_t row = first; row < last; row += TILE_ROWS) run(row, std::min(TILE_ROWS, last - row), task % panels);
    }
  });
}

// store(row, rows, panel, sums) for every tile; sums is [rows, 16], the raw sums of multiply_tile. Sums are integers:
// the outcome does not depend on the number of threads.
template <class Store>
void for_each_tile(const Codes& a, const Packed& b, const Store& store) {
  const Factors one{a, b};
  for_each_place(a.rows, b.panel_count(), b.depth, [&](int64_t row, int64_t rows, int64_t panel) {
    alignas(32) int32_t sums[TILE_ROWS * PANEL];
    multiply_tile(&one, 1, row, rows, panel, sums);
    store(row, rows, panel, sums);
  });
}

}  // namespace qexp
