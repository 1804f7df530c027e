// qexp::int8_attention: both products of attention in integers, with everything between them, in one operator.
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <atomic>
#include <string>

#include "attention.h"

namespace qexp {
namespace {

using at::Tensor;
using std::optional;

// The widest kernel that processor and torch (whose ATEN_CPU_CAPABILITY can hold it back) have in common.
Attend kernel() {
  const bool wide = at::get_cpu_capability() == "AVX512" && __builtin_cpu_supports("avx512vnni") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
  return wide ? attend_avx512 : attend_avx2;
}

Tensor float_tensor(const Tensor& t, const char* name) {
  TORCH_CHECK_TYPE(t.scalar_type() == at::kFloat, "the ", name, " must be float32, not ", t.scalar_type());
  TORCH_CHECK_VALUE(t.dim() == 4, "the ", name, " must be [batch, heads, length, depth], not ", t.sizes());
  return t.contiguous();
}

// Three 0-dim tensors from the i-th grid: scale, lowest and highest code less the zero point.
TensorGrid tensor_grid(at::TensorList grids, size_t i) {
  return {grids[3 * i].item<float>(), grids[3 * i + 1].item<float>(), grids[3 * i + 2].item<float>()};
}

void set_mask(Attention& a, const Tensor& mask) {
  a.mask = mask.const_data_ptr<float>();
  const Tensor whole = mask.expand({a.batch, a.heads, a.rows, a.keys});
  a.mask_batch = whole.stride(0), a.mask_head = whole.stride(1), a.mask_row = whole.stride(2);
}

void check(const Attention& a, const Tensor& key, const Tensor& value) {
  TORCH_CHECK_VALUE(key.size(0) == a.batch && value.size(0) == a.batch && value.size(1) == a.kv_heads &&
                        key.size(3) == a.depth && value.size(2) == a.keys && a.heads % a.kv_heads == 0,
                    "query, key ", key.sizes(), " and value ", value.sizes(), " do not fit together");
  constexpr int64_t bound = 2147483647 / (255 * 255);
  TORCH_CHECK_VALUE(a.keys <= bound && a.depth <= bound, "keys or depth too long for exact int32 sums: at most ",
                    bound);
}

void report(Fault fault) {
  TORCH_CHECK_VALUE(fault != Fault::query, "NaN or infinity in the query");
  TORCH_CHECK_VALUE(fault != Fault::key, "NaN or infinity in the key");
  TORCH_CHECK_VALUE(fault != Fault::value, "NaN or infinity in the value");
  TORCH_CHECK_VALUE(fault == Fault::none, "NaN in the probabilities: a row's mask holds NaN or nothing but -infinity");
}

Tensor int8_attention(const Tensor& query_, const Tensor& key_, const Tensor& value_, const optional<Tensor>& mask_,
                      at::TensorList grids, double scale, double stretch, double offset) {
  TORCH_CHECK_VALUE(grids.size() == 12 || grids.size() == 15,
                    "grids of query, key, value and probabilities, and perhaps scores, are 3 tensors each");
  const Tensor query = float_tensor(query_, "query"), key = float_tensor(key_, "key"),
               value = float_tensor(value_, "value"), mask = mask_ ? float_tensor(*mask_, "mask") : Tensor();
  const Tensor context = at::empty({query.size(0), query.size(1), query.size(2), value.size(3)}, query.options());
  Attention a{};
  a.query = query.const_data_ptr<float>(), a.key = key.const_data_ptr<float>();
  a.value = value.const_data_ptr<float>(), a.context = context.mutable_data_ptr<float>();
  a.batch = query.size(0), a.heads = query.size(1), a.rows = query.size(2), a.depth = query.size(3);
  a.kv_heads = key.size(1), a.keys = key.size(2), a.width = value.size(3);
  check(a, key, value);
  a.query_grid = tensor_grid(grids, 0), a.key_grid = tensor_grid(grids, 1), a.value_grid = tensor_grid(grids, 2);
  a.probs_grid = tensor_grid(grids, 3), a.quantize_scores = grids.size() == 15;
  if (a.quantize_scores) a.scores_grid = tensor_grid(grids, 4);
  a.scale = static_cast<float>(scale), a.stretch = static_cast<float>(stretch), a.offset = static_cast<float>(offset);
  if (mask.defined()) set_mask(a, mask);
  const int64_t blocks = (a.rows + row_block(a) - 1) / row_block(a);
  std::atomic<Fault> fault{Fault::none};
  at::parallel_for(0, a.batch * a.heads * blocks, 1, [&](int64_t begin, int64_t end) {
    const Fault found = kernel()(a, begin, end);
    if (found != Fault::none) fault = found;
  });
  report(fault);
  return context;
}

TORCH_LIBRARY_FRAGMENT(qexp, m) {
  m.def(
      "int8_attention(Tensor query, Tensor key, Tensor value, Tensor? mask, Tensor[] grids, float scale, "
      "float stretch, float offset) -> Tensor");
}

TORCH_LIBRARY_IMPL(qexp, CPU, m) { m.impl("int8_attention", int8_attention); }

}  // namespace
}  // namespace qexp
