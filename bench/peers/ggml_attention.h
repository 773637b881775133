// FLASH_ATTN_EXT of ggml on its CPU backend, over keys and values of made-up numbers in memory.
// Thread safety: one caller per object.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "bench/micro/folded_heads.h"

struct ggml_cgraph;
struct ggml_context;
struct ggml_tensor;
struct ggml_threadpool;

namespace quire::peers {

enum class Layout : uint8_t {
  kHeadMajor,   // [head][token][dim], each head in one piece
  kTokenMajor,  // [token][head][dim], as llama.cpp's cache has it: a permuted view
};
const char* layout_name(Layout layout);

struct GgmlShape {
  std::string type;  // f16, q8_0 or q4_0, of keys and values
  Layout layout;
  uint32_t dim;
  uint32_t heads_in_memory;  // kv heads that a token's row holds
  uint32_t kv_heads;         // those that are attended
  uint32_t group;            // query heads of one kv head
  uint32_t n_q;
  uint32_t n_kv;
  uint32_t threads;
};

class GgmlAttention {
 public:
  explicit GgmlAttention(const GgmlShape& shape);
  ~GgmlAttention();
  GgmlAttention(const GgmlAttention&) = delete;
  GgmlAttention& operator=(const GgmlAttention&) = delete;

  void run();
  // Values are made so that every output of kv head h is (h + 1) / 8: the largest difference from that, after
  // run. It shows that the right heads were attended to the end.
  double largest_difference() const;

 private:
  struct ThreadPoolFree {
    void operator()(ggml_threadpool* pool) const;
  };

  ggml_tensor* make_side(bool values);

  GgmlShape shape_;
  micro::BigBuffer memory_;
  ggml_context* context_;
  std::unique_ptr<ggml_threadpool, ThreadPoolFree> pool_;
  ggml_tensor* out_;
  ggml_cgraph* graph_;
  std::vector<uint8_t> work_;
};

}  // namespace quire::peers
