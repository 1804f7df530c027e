// What one call of qexp::int8_attention computes, handed to the kernel of the processor's instruction set.
#pragma once

#include <cstdint>

namespace qexp {

struct TensorGrid {
  float scale, low, high;  // low and high are the ends of the grid less its zero point
};

struct Attention {
  const float *query, *key, *value;  // [batch, heads, rows, depth], [batch, kv_heads, keys, depth], [.., keys, width]
  const float* mask;                 // added to the scores, or null
  int64_t mask_batch, mask_head, mask_row;  // its strides; neighbouring keys are neighbours in memory
  float* context;                           // [batch, heads, rows, width]
  int64_t batch, heads, kv_heads, rows, keys, depth, width;
  TensorGrid query_grid, key_grid, value_grid, scores_grid, probs_grid;
  bool quantize_scores;
  float scale;            // of the scores, after the two operands' own scales
  float stretch, offset;  // probability = clip(stretch * softmax + offset, 0, 1)
};

// A kernel computes blocks begin .. end of row_block(a) rows of one head each, and says what it could not quantize.
enum class Fault { none, query, key, value, probability };
using Attend = Fault (*)(const Attention& a, int64_t begin, int64_t end);

// As many rows as keep their scores in the first-level cache; a multiple of every kernel's register block.
inline int64_t row_block(const Attention& a) {
  const int64_t rows = 8192 / (a.keys + 1) / 8 * 8;
  return rows < 8 ? 8 : rows > 64 ? 64 : rows;
}

Fault attend_avx2(const Attention& a, int64_t begin, int64_t end);
Fault attend_avx512(const Attention& a, int64_t begin, int64_t end);

}  // namespace qexp
