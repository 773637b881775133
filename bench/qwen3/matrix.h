// Products of f32 activations with bf16 weights.
//
// y = x W^T for W [rows, cols]. Work is cut into tiles of a fixed size that each run on one thread, so the
// bits of a result depend on the number of rows of x and on the machine's instruction set, never on the
// number of threads. A product of one row reads the bf16 weights as they are; larger ones unfold a tile of
// weights to f32 in cache and give it to OpenBLAS.
// Thread safety: const calls from anywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "bench/qwen3/thread_pool.h"

namespace quire::qwen3 {

struct Matrix {
  uint32_t rows = 0;
  uint32_t cols = 0;
  std::vector<uint16_t> values;  // bf16 [rows][cols]
};

// How rows of activations stand in the product they were first computed in: `count` of them at row `first`
// of one with `rows` rows. Repeating that shape repeats its bits.
struct ProductRows {
  uint32_t count;
  uint32_t first;
  uint32_t rows;
};

// x [m][w.cols], y [m][w.rows].
void multiply(ThreadPool& pool, const Matrix& w, std::span<const float> x, uint32_t m, std::span<float> y);

// The same for runs of rows, one after another in x and y, each inside a product of its recorded shape.
void multiply(ThreadPool& pool, const Matrix& w, std::span<const float> x, std::span<const ProductRows> runs,
              std::span<float> y);

}  // namespace quire::qwen3
