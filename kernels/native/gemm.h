// The exact product of 8-bit codes on AVX2: Sum_k a[m,k] * w[n,k] as int32.
//
// vpmaddubsw multiplies unsigned by signed bytes and adds neighbours in 16 bits, where 255 * (w0 + w1) fits only while
// |w0 + w1| <= 128. Two forms of a packed weight are exact nevertheless:
//
// - chained (chain = 1, 2 or 4): `chain` such sums are added in 16 bits before they are widened, which is faster, and
//   exact while the positive weights and the negative weights of one 16-bit lane each sum up to 128 at most. What is
//   beyond moves into a sparse second weight of a few vectors ("extras"), multiplied as well.
// - free (chain = 0): with x = a - 128, magnitude |x| and mask s = (x < 0 ? -1 : 0),
//   Sum x * w = Sum |x| * (w ^ s) + Sum_{x < 0} |x|. Since |x| <= 128 and w ^ s lies in [-128, 127], every pair fits.
//   No condition on the weight, one more instruction a vector.
//
// Codes are read as unsigned: int8 codes are lifted by 128. What that and the zero points add is a multiple of each
// column's sum and a term for each row, settled in 32 bits, modulo 2^32.
#pragma once

#include <cstdint>

namespace qexp {

constexpr int64_t TILE_ROWS = 4;
constexpr int64_t PANEL = 16;      // columns of a tile: two vectors of 8, each with 4 neighbours in K
constexpr int64_t DEPTH_UNIT = 16;  // K is padded to whole chains of the longest kind
constexpr int64_t BLOCK_ROWS = 64;  // rows that one task multiplies by a panel: they stay in L2, the panel in L1

// A weight [n, k] as `panels` [n / 16, depth / 4, 16, 4]. Half panel h (8 columns) has extras starts[h] .. starts[h+1]:
// extra e is a vector [8, 4] at depth groups[e] * 4.
struct Packed {
  const int8_t* panels;
  const int32_t* sums;
  const int32_t* starts;
  const int32_t* groups;
  const int8_t* extras;
  int64_t n, k, depth;
  int chain;

  int64_t panel_count() const { return (n + PANEL - 1) / PANEL; }
  // Bytes of one row of codes: magnitudes and masks alternate in the free form.
  int64_t code_stride() const { return chain == 0 ? 2 * depth : depth; }
};

// Rows of codes as the tiles read them: unsigned, K padded to `Packed::depth`, [4 magnitudes, 4 masks] alternating in
// the free form.
struct Codes {
  const uint8_t* data;
  int64_t stride;
  int64_t rows;
};

// One product of a sum of products; the sum of those before it is first multiplied by 2^shift.
struct Factors {
  Codes a;
  Packed b;
  int shift = 0;
};

// out [rows, 16] = raw sums of `rows` (1..4) rows of codes and one panel, modulo 2^32.
void multiply_tile(const Factors* factors, int64_t count, int64_t row, int64_t rows, int64_t panel, int32_t* out);

// One row for the free form: codes [depth] unsigned -> out [2 * depth]. Returns its term, the sum of |x| where x < 0.
int32_t spread_codes(const uint8_t* codes, int64_t depth, uint8_t* out);

// Sum of a row of unsigned codes.
int32_t sum_codes(const uint8_t* codes, int64_t count);

}  // namespace qexp
