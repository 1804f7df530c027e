// attention_kernel.h for processors with AVX-512 and its VNNI.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "attention.h"

#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")

namespace qexp {
namespace avx512 {
#include "lanes_avx512.h"
// The kernel is written in those lanes, so it comes after them.
#include "attention_kernel.h"
}  // namespace avx512

Fault attend_avx512(const Attention& a, int64_t begin, int64_t end) { return avx512::attend(a, begin, end); }

}  // namespace qexp
