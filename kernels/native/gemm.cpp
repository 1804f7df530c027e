// int8_gemm and int8_gemm_batched: codes in, exact int32 sums out.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cstring>

#include "codes.h"
#include "packing.h"
#include "tasks.h"

#pragma GCC target("avx2")

namespace qexp {
namespace {

void check_codes(const at::Tensor& a, int64_t dim, const char* op) {
  TORCH_CHECK_VALUE(a.dim() == dim && (a.scalar_type() == at::kByte || a.scalar_type() == at::kChar), op,
                    ": uint8 or int8 codes with ", dim, " dimensions are needed");
}

// out [rows, n] = codes [rows, k] * weight, both contiguous.
void multiply(const uint8_t* codes, bool is_signed, int64_t rows, const Packed& b, int32_t* out) {
  const ReadyCodes a(codes, is_signed, rows, b);
  const auto terms = column_terms(b, is_signed ? 128 : 0, 0);
  for_each_tile(a.view(), b, [&](int64_t row, int64_t count, int64_t panel, const int32_t* sums) {
    const int64_t first = panel * PANEL, columns = std::min(PANEL, b.n - first);
    for (int64_t r = row; r < row + count; ++r, sums += PANEL) {
      uint32_t values[PANEL];  // unsigned, since the terms alone may leave int32 and wrap round
      const auto of_row = static_cast<uint32_t>(a.term(r));
      for (int64_t c = 0; c < PANEL; ++c) values[c] = static_cast<uint32_t>(sums[c]) + terms[first + c] + of_row;
      int32_t* to = out + r * b.n + first;
      if (columns == PANEL) {  // of a size known here: no call
        std::memcpy(to, values, sizeof(values));
      } else {
        std::memcpy(to, values, columns * sizeof(int32_t));
      }
    }
  });
}

at::Tensor gemm(const at::Tensor& a, at::TensorList packed) {
  check_codes(a, 2, "int8_gemm");
  const Packed b = view_packed(packed);
  TORCH_CHECK_VALUE(a.size(1) == b.k, "int8_gemm: codes with ", a.size(1), " columns, a weight of depth ", b.k);
  const auto codes = a.contiguous();
  auto out = at::empty({a.size(0), b.n}, a.options().dtype(at::kInt));
  const auto* from = static_cast<const uint8_t*>(codes.const_data_ptr());
  multiply(from, a.scalar_type() == at::kChar, a.size(0), b, out.mutable_data_ptr<int32_t>());
  return out;
}

at::Tensor gemm_batched(const at::Tensor& a, const at::Tensor& b) {
  check_codes(a, 3, "int8_gemm_batched");
  TORCH_CHECK_VALUE(b.dim() == 3 && b.scalar_type() == at::kChar && b.size(0) == a.size(0) && b.size(2) == a.size(2),
                    "int8_gemm_batched: int8 codes [", a.size(0), ", N, ", a.size(2), "] are needed as second operand");
  const int64_t batch = a.size(0), rows = a.size(1), columns = b.size(1), depth = a.size(2);
  const auto codes = a.contiguous(), weights = b.contiguous();
  auto out = at::empty({batch, rows, columns}, a.options().dtype(at::kInt));
  const auto* from = static_cast<const uint8_t*>(codes.const_data_ptr());
  auto* to = out.mutable_data_ptr<int32_t>();
  const auto one = [&](int64_t i) {
    const FreeWeight weight(weights.const_data_ptr<int8_t>() + i * columns * depth, columns, depth);
    multiply(from + i * rows * depth, a.scalar_type() == at::kChar, rows, weight.view(), to + i * rows * columns);
  };
  if (batch < at::get_num_threads()) {  // the threads share each product instead
    for (int64_t i = 0; i < batch; ++i) one(i);
    return out;
  }
  const int64_t grain = TASK_WORK / std::max<int64_t>(rows * columns * depth, 1) + 1;
  at::parallel_for(0, batch, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) one(i);
  });
  return out;
}

}  // namespace
}  // namespace qexp

TORCH_LIBRARY_FRAGMENT(qexp, m) {
  m.def("int8_gemm(Tensor a, Tensor[] packed) -> Tensor");
  m.def("int8_gemm_batched(Tensor a, Tensor b) -> Tensor");
}

TORCH_LIBRARY_IMPL(qexp, CPU, m) {
  m.impl("int8_gemm", qexp::gemm);
  m.impl("int8_gemm_batched", qexp::gemm_batched);
}
