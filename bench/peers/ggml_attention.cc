#include "bench/peers/ggml_attention.h"

#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <stdexcept>

#include "bench/micro/attention.h"

namespace quire::peers {
namespace {

constexpr size_t kDistinctRows = 4096;  // then the same rows come again
constexpr size_t kTensorsAndGraph = size_t{8} << 20;

ggml_type type_named(const std::string& name) {
  if (name == "f16") return GGML_TYPE_F16;
  if (name == "q8_0") return GGML_TYPE_Q8_0;
  if (name == "q4_0") return GGML_TYPE_Q4_0;
  throw std::invalid_argument("ggml has no type '" + name + "' here; use f16, q8_0 or q4_0");
}

size_t bytes_of(const GgmlShape& shape) {
  const size_t side = ggml_row_size(type_named(shape.type), shape.dim) * shape.heads_in_memory * shape.n_kv;
  const size_t rows = size_t{shape.n_q} * shape.kv_heads * shape.group * shape.dim * sizeof(float);
  return 2 * side + 2 * rows + kTensorsAndGraph;
}

float head_value(size_t head) { return static_cast<float>(head + 1) / 8; }

}  // namespace

const char* layout_name(Layout layout) { return layout == Layout::kHeadMajor ? "head-major" : "token-major"; }

void GgmlAttention::ThreadPoolFree::operator()(ggml_threadpool* pool) const { ggml_threadpool_free(pool); }

GgmlAttention::GgmlAttention(const GgmlShape& shape)
    : shape_(shape), memory_(bytes_of(shape)), context_(ggml_init({bytes_of(shape), memory_.data(), false})) {
  if (context_ == nullptr) throw std::runtime_error("ggml_init failed");
  ggml_threadpool_params params = ggml_threadpool_params_default(static_cast<int>(shape.threads));
  pool_.reset(ggml_threadpool_new(&params));
  ggml_tensor* q = ggml_new_tensor_3d(context_, GGML_TYPE_F32, shape.dim, shape.n_q,
                                      int64_t{shape.kv_heads} * shape.group);
  const std::vector<float> numbers = micro::make_normal_rows(static_cast<size_t>(ggml_nelements(q)));
  std::memcpy(q->data, numbers.data(), ggml_nbytes(q));
  ggml_tensor* k = make_side(false);
  ggml_tensor* v = make_side(true);
  const float scale = 1.0F / std::sqrt(static_cast<float>(shape.dim));
  out_ = ggml_flash_attn_ext(context_, q, k, v, nullptr, scale, 0.0F, 0.0F);
  graph_ = ggml_new_graph(context_);
  ggml_build_forward_expand(graph_, out_);
  work_.resize(ggml_graph_plan(graph_, static_cast<int>(shape.threads), pool_.get()).work_size);
}

GgmlAttention::~GgmlAttention() { ggml_free(context_); }

// [dim, n_kv, kv heads] as the operator wants it, whatever lies behind.
ggml_tensor* GgmlAttention::make_side(bool values) {
  const ggml_type type = type_named(shape_.type);
  const bool head_major = shape_.layout == Layout::kHeadMajor;
  const int64_t inner = head_major ? shape_.n_kv : shape_.heads_in_memory;
  const int64_t outer = head_major ? shape_.heads_in_memory : shape_.n_kv;
  ggml_tensor* all = ggml_new_tensor_3d(context_, type, shape_.dim, inner, outer);
  const size_t row_bytes = ggml_row_size(type, shape_.dim);
  const std::vector<float> keys = micro::make_normal_rows(kDistinctRows * shape_.dim);
  std::vector<uint8_t> rows(row_bytes * (values ? shape_.heads_in_memory : kDistinctRows));
  for (size_t row = 0; row < rows.size() / row_bytes; ++row) {
    std::vector<float> numbers(keys.begin() + static_cast<ptrdiff_t>(row * shape_.dim),
                               keys.begin() + static_cast<ptrdiff_t>((row + 1) * shape_.dim));
    if (values) std::ranges::fill(numbers, head_value(row));
    ggml_quantize_chunk(type, numbers.data(), rows.data() + row * row_bytes, 0, 1, shape_.dim, nullptr);
  }
  auto* data = static_cast<uint8_t*>(all->data);
  for (size_t at = 0; at < static_cast<size_t>(inner * outer); ++at) {
    const size_t head = head_major ? at / static_cast<size_t>(inner) : at % static_cast<size_t>(inner);
    const size_t row = values ? head : at % kDistinctRows;
    std::memcpy(data + at * row_bytes, rows.data() + row * row_bytes, row_bytes);
  }
  if (head_major) {
    return ggml_view_3d(context_, all, shape_.dim, shape_.n_kv, shape_.kv_heads, all->nb[1], all->nb[2], 0);
  }
  ggml_tensor* view =
      ggml_view_3d(context_, all, shape_.dim, shape_.kv_heads, shape_.n_kv, all->nb[1], all->nb[2], 0);
  return ggml_permute(context_, view, 0, 2, 1, 3);
}

void GgmlAttention::run() {
  ggml_cplan plan = ggml_graph_plan(graph_, static_cast<int>(shape_.threads), pool_.get());
  plan.work_data = work_.data();
  if (ggml_graph_compute(graph_, &plan) != GGML_STATUS_SUCCESS) {
    throw std::runtime_error("ggml_graph_compute failed");
  }
}

double GgmlAttention::largest_difference() const {
  const std::span<const float> out(static_cast<const float*>(out_->data),
                                   static_cast<size_t>(ggml_nelements(out_)));
  const size_t heads = size_t{shape_.kv_heads} * shape_.group;
  double largest = 0;
  for (size_t i = 0; i < out.size(); ++i) {  // [query][head][dim]
    const size_t kv_head = i / shape_.dim % heads / shape_.group;
    largest = std::max(largest, std::abs(double{out[i]} - head_value(kv_head)) / head_value(kv_head));
  }
  return largest;
}

}  // namespace quire::peers
