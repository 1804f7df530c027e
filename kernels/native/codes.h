// Rows of activation codes made ready for the tiles.
#pragma once

#include <ATen/Parallel.h>

#include <cstring>
#include <memory>
#include <vector>

#include "gemm.h"
#include "transpose.h"

namespace qexp {

constexpr int64_t ROW_GRAIN = 16384;  // codes that a thread prepares at least

// Owns rows of codes in the layout that a weight's form asks for. Rows are written by any thread, each by one.
class ReadyCodes {
 public:
  // Room for `rows` rows, to be filled by write().
  ReadyCodes(int64_t rows, const Packed& b)
      : stride_(b.code_stride()),
        rows_(rows),
        spread_(b.chain == 0),
        depth_(b.depth),
        room_(new uint8_t[rows * stride_]),
        terms_(spread_ ? rows : 0),
        data_(room_.get()) {}

  // Codes [rows, k] in memory; used where they lie if they need no change, so they must outlive this.
  ReadyCodes(const uint8_t* codes, bool is_signed, int64_t rows, const Packed& b)
      : stride_(b.code_stride()), rows_(rows), spread_(b.chain == 0), depth_(b.depth), data_(codes) {
    if (!spread_ && !is_signed && b.k == b.depth) return;
    *this = ReadyCodes(rows, b);
    const uint8_t flip = is_signed ? 0x80 : 0;
    at::parallel_for(0, rows, ROW_GRAIN / std::max<int64_t>(b.depth, 1) + 1, [&](int64_t begin, int64_t end) {
      std::vector<uint8_t> row(b.depth);
      uint8_t* __restrict to = row.data();  // a byte may alias anything, and no loop is vectorised then
      for (int64_t m = begin; m < end; ++m) {
        for (int64_t k = 0; k < b.k; ++k) to[k] = codes[m * b.k + k] ^ flip;
        write(m, row.data());
      }
    });
  }

  // Codes that lie transposed, [k, rows]: 16 columns of them at a time become rows.
  static ReadyCodes of_columns(const uint8_t* codes, bool is_signed, int64_t rows, const Packed& b) {
    ReadyCodes ready(rows, b);
    const uint8_t flip = is_signed ? 0x80 : 0;
    const int64_t squares = (rows + SQUARE - 1) / SQUARE, codes_each = std::max<int64_t>(b.depth * SQUARE, 1);
    at::parallel_for(0, squares, ROW_GRAIN / codes_each + 1, [&](int64_t begin, int64_t end) {
      std::vector<uint8_t> room(SQUARE * b.depth);
      for (int64_t first = begin * SQUARE; first < std::min(end * SQUARE, rows); first += SQUARE) {
        for (int64_t k = 0; k < b.k; k += SQUARE) {
          transpose_part(codes + k * rows + first, rows, b.k - k, rows - first, flip, room.data() + k, b.depth);
        }
        for (int64_t m = first; m < std::min(first + SQUARE, rows); ++m) {
          ready.write(m, room.data() + (m - first) * b.depth);
        }
      }
    });
    return ready;
  }

  // Row m from unsigned codes [depth], whatever stands beyond the weight's own depth: its weights there are zero.
  void write(int64_t m, const uint8_t* codes) {
    uint8_t* to = room_.get() + m * stride_;
    if (spread_) {
      terms_[m] = spread_codes(codes, depth_, to);
    } else {
      std::memcpy(to, codes, depth_);
    }
  }

  int32_t term(int64_t m) const { return spread_ ? terms_[m] : 0; }
  Codes view() const { return {data_, stride_, rows_}; }

 private:
  int64_t stride_, rows_;
  bool spread_;
  int64_t depth_;
  std::unique_ptr<uint8_t[]> room_;
  std::vector<int32_t> terms_;
  const uint8_t* data_;
};

}  // namespace qexp
