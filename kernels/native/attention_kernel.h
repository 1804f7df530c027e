// Integer attention over one block of rows at a time, written once in terms of the vectors of lanes_*.h and compiled
// for each instruction set by attention_avx2.cpp and attention_avx512.cpp, which include it in their own namespaces.
//
// Codes less their zero points are at most 255 in magnitude and kept as int16 pairs: a multiply-add of pairs sums two
// products exactly in int32, without the saturation of byte products and without zero-point corrections.

constexpr int64_t PANEL = 2 * LANES;  // columns multiplied together

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Zeroed memory that begins on a cache line.
template <class T>
struct Room {
  struct alignas(64) Line {
    T items[64 / sizeof(T)];
  };
  std::vector<Line> lines;

  explicit Room(int64_t size) : lines(round_up(size, 64 / sizeof(T)) * sizeof(T) / 64, Line{}) {}
  T* data() { return lines.data()->items; }
};

// Codes less the zero point of n numbers; false if one is NaN or infinite.
inline bool quantize(const float* x, int64_t n, const TensorGrid& g, int16_t* __restrict out) {
  const float scale = g.scale, low = g.low, high = g.high;
  int32_t bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    float step = std::rint(x[i] / scale);
    step = step < low ? low : step;
    out[i] = static_cast<int16_t>(static_cast<int32_t>(step > high ? high : step));
    bad |= !(std::fabs(x[i]) <= std::numeric_limits<float>::max());
  }
  return !bad;
}

// Rows [n, depth] as columns of a right operand: PANEL columns side by side, each a pair of its depth after the other.
inline bool pack_columns(const float* x, int64_t n, int64_t depth, const TensorGrid& g, int16_t* packed) {
  const int64_t pairs = round_up(depth, 2) / 2;
  std::vector<int16_t> row(2 * pairs);
  bool finite = true;
  for (int64_t j = 0; j < n; ++j) {
    finite &= quantize(x + j * depth, depth, g, row.data());
    int16_t* to = packed + (j / PANEL * PANEL * pairs + j % PANEL) * 2;
    for (int64_t p = 0; p < pairs; ++p) std::memcpy(to + p * PANEL * 2, &row[2 * p], 2 * sizeof(int16_t));
  }
  return finite;
}

// Rows [n, width] as rows of a right operand in the same layout: depth is n now.
inline bool pack_rows(const float* x, int64_t n, int64_t width, const TensorGrid& g, int16_t* packed) {
  const int64_t pairs = round_up(n, 2) / 2, padded = round_up(width, PANEL);
  std::vector<int16_t> even(padded), odd(padded);
  bool finite = true;
  for (int64_t p = 0; p < pairs; ++p) {
    finite &= quantize(x + 2 * p * width, width, g, even.data());
    if (2 * p + 1 < n)
      finite &= quantize(x + (2 * p + 1) * width, width, g, odd.data());
    else
      std::fill(odd.begin(), odd.end(), 0);
    for (int64_t first = 0; first < padded; first += PANEL) {
      int16_t* __restrict to = packed + (first * pairs + p * PANEL) * 2;
      for (int64_t c = 0; c < PANEL; ++c) to[2 * c] = even[first + c], to[2 * c + 1] = odd[first + c];
    }
  }
  return finite;
}

// Exact products of rows a (stride apart, a multiple of BLOCK of them) with packed columns; store(row, column, sums).
template <class Store>
inline void multiply(const int16_t* a, int64_t stride, int64_t rows, const int16_t* packed, int64_t pairs,
                     int64_t columns, const Store& store) {
  for (int64_t n = 0; n < columns; n += PANEL) {
    const int16_t* panel = packed + n * pairs * 2;
    for (int64_t m = 0; m < rows; m += BLOCK) {
      const int16_t* left = a + m * stride;
      Ints sums[BLOCK][2] = {};
      for (int64_t p = 0; p < pairs; ++p) {
        const Ints first = load_ints(panel + p * PANEL * 2), second = load_ints(panel + p * PANEL * 2 + PANEL);
#pragma GCC unroll 8
        for (int r = 0; r < BLOCK; ++r) {
          const Ints pair = broadcast_pair(left + r * stride + 2 * p);
          sums[r][0] = add_products(sums[r][0], pair, first);
          sums[r][1] = add_products(sums[r][1], pair, second);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < BLOCK; ++r) {
        store(m + r, n, sums[r][0]);
        store(m + r, n + LANES, sums[r][1]);
      }
    }
  }
}

// e^x for x <= 0 to about one unit in the last place; 0 below -87.7, where float32 loses its full precision; NaN stays.
// x = n ln 2 + r with ln 2 in two parts, e^r by the polynomial of Cephes' expf, 2^n as a float's exponent bits.
inline Floats exponential(Floats x) {
  x = maximum(broadcast(-88.0f), x);
  const Floats n = nearest(x * broadcast(1.44269504f));
  const Floats r = multiply_add(n, broadcast(2.12194440e-4f), multiply_add(n, broadcast(-0.693359375f), x));
  Floats y = broadcast(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    y = multiply_add(y, r, broadcast(c));
  return (multiply_add(y, r * r, r) + broadcast(1.0f)) * power_of_two(n);
}

// Codes less the zero point of a row's probabilities, from its scores, which are used up; false if they are NaN.
// The quotients by the sum and by the grid's scale are one product: torch's probability differs by some ulps anyway.
inline bool probabilities(const Attention& a, const float* mask, float* scores, int64_t padded, int16_t* codes) {
  if (mask != nullptr)
    for (int64_t j = 0; j < a.keys; ++j) scores[j] += mask[j];
  std::fill(scores + a.keys, scores + padded, -std::numeric_limits<float>::infinity());
  Floats top = load(scores);
  for (int64_t j = LANES; j < padded; j += LANES) top = maximum(top, load(scores + j));
  const Floats largest = broadcast(largest_lane(top));
  Floats sums[2] = {broadcast(0.0f), broadcast(0.0f)};
  for (int64_t j = 0; j < padded; j += PANEL) {
    const Floats first = exponential(load(scores + j) - largest);
    const Floats second = exponential(load(scores + j + LANES) - largest);
    store(scores + j, first), store(scores + j + LANES, second);
    sums[0] = sums[0] + first, sums[1] = sums[1] + second;
  }
  const float sum = sum_of_lanes(sums[0] + sums[1]), step = a.probs_grid.scale;
  const auto clamped = [&](float v) { return std::min(std::max(v, a.probs_grid.low), a.probs_grid.high); };
  const Floats low = broadcast(clamped(0.0f)), high = broadcast(clamped(std::rint(1.0f / step)));
  const Floats factor = broadcast(static_cast<float>(a.stretch / (static_cast<double>(sum) * step)));
  const Floats offset = broadcast(static_cast<float>(static_cast<double>(a.offset) / step));
  for (int64_t j = 0; j < padded; j += LANES) {
    const Floats steps = nearest(multiply_add(load(scores + j), factor, offset));
    store_codes(codes + j, minimum(high, maximum(low, steps)));
  }
  return sum == sum;
}

// One key and value head, packed, with room for a block of rows of the query heads that share it.
class Head {
 public:
  explicit Head(const Attention& a)
      : a_(a),
        padded_(round_up(a.keys, PANEL)),
        pairs_(round_up(a.depth, 2) / 2),
        keys_(padded_ * pairs_ * 2),
        values_(round_up(a.width, PANEL) * round_up(a.keys, 2)),
        queries_(row_block(a) * pairs_ * 2),
        scores_(row_block(a) * padded_),
        codes_(row_block(a) * padded_) {}

  Fault load(int64_t batch, int64_t kv_head) {
    const int64_t first = (batch * a_.kv_heads + kv_head) * a_.keys;
    if (!pack_columns(a_.key + first * a_.depth, a_.keys, a_.depth, a_.key_grid, keys_.data())) return Fault::key;
    if (!pack_rows(a_.value + first * a_.width, a_.keys, a_.width, a_.value_grid, values_.data())) return Fault::value;
    return Fault::none;
  }

  // Rows first .. first + count of one query head, against the key and value head that was loaded.
  Fault attend(int64_t batch, int64_t head, int64_t first, int64_t count) {
    const int64_t row = (batch * a_.heads + head) * a_.rows + first;
    for (int64_t m = 0; m < count; ++m)
      if (!quantize(a_.query + (row + m) * a_.depth, a_.depth, a_.query_grid, queries_.data() + m * pairs_ * 2))
        return Fault::query;
    const int64_t block = round_up(count, BLOCK);
    a_.quantize_scores ? score<true>(block) : score<false>(block);
    for (int64_t m = 0; m < count; ++m)
      if (!probabilities(a_, mask(batch, head, first + m), scores_.data() + m * padded_, padded_,
                         codes_.data() + m * padded_))
        return Fault::probability;
    mix(block, count, a_.context + row * a_.width);
    return Fault::none;
  }

 private:
  // float32(acc) * (scale of q * scale of k) * scale, on the grid of the scores if they have one.
  template <bool quantized>
  void score(int64_t block) {
    const TensorGrid g = a_.scores_grid;
    const Floats operands = broadcast(a_.query_grid.scale * a_.key_grid.scale), scale = broadcast(a_.scale);
    const Floats step = broadcast(g.scale), low = broadcast(g.low), high = broadcast(g.high);
    float* scores = scores_.data();
    const int64_t stride = padded_;
    multiply(queries_.data(), 2 * pairs_, block, keys_.data(), pairs_, padded_, [=](int64_t m, int64_t n, Ints sums) {
      Floats s = to_floats(sums) * operands * scale;
      if (quantized) s = minimum(high, maximum(low, nearest(s / step))) * step;
      store(scores + m * stride + n, s);
    });
  }

  // float32(acc) * (scale of p * scale of v), of which padding is left out.
  void mix(int64_t block, int64_t count, float* context) {
    const Floats scale = broadcast(a_.probs_grid.scale * a_.value_grid.scale);
    const int64_t width = a_.width, pairs = round_up(a_.keys, 2) / 2;
    multiply(codes_.data(), padded_, block, values_.data(), pairs, width, [=](int64_t m, int64_t n, Ints sums) {
      if (m >= count || n >= width) return;
      const Floats y = to_floats(sums) * scale;
      if (n + LANES <= width) return store(context + m * width + n, y);
      float lanes[LANES];
      store(lanes, y);
      std::copy(lanes, lanes + (width - n), context + m * width + n);
    });
  }

  const float* mask(int64_t batch, int64_t head, int64_t row) const {
    return a_.mask == nullptr ? nullptr
                              : a_.mask + batch * a_.mask_batch + head * a_.mask_head + row * a_.mask_row;
  }

  const Attention& a_;
  int64_t padded_, pairs_;  // keys to a full panel, pairs of depth
  Room<int16_t> keys_, values_, queries_;
  Room<float> scores_;
  Room<int16_t> codes_;
};

inline Fault attend(const Attention& a, int64_t begin, int64_t end) {
  const int64_t block = row_block(a), blocks = (a.rows + block - 1) / block, group = a.heads / a.kv_heads;
  Head head(a);
  Fault fault = Fault::none;
  int64_t loaded = -1;
  for (int64_t i = begin; i < end && fault == Fault::none; ++i) {
    const int64_t of_query = i / blocks, of_key = of_query / group, first = i % blocks * block;
    if (of_key != loaded) fault = head.load(of_key / a.kv_heads, of_key % a.kv_heads);
    loaded = of_key;
    if (fault == Fault::none)
      fault = head.attend(of_query / a.heads, of_query % a.heads, first, std::min(block, a.rows - first));
  }
  return fault;
}
