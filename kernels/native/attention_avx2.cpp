// attention_kernel.h for processors with AVX2.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "attention.h"

#pragma GCC target("avx2,fma")

namespace qexp {
namespace avx2 {
#include "lanes_avx2.h"
// The kernel is written in those lanes, so it comes after them.
#include "attention_kernel.h"
}  // namespace avx2

Fault attend_avx2(const Attention& a, int64_t begin, int64_t end) { return avx2::attend(a, begin, end); }

}  // namespace qexp
