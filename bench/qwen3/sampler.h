// Choosing the next token from logits.
//
// temperature 0 is greedy. Otherwise, in the order of transformers: logits / temperature, the top_k largest,
// then the smallest set of them whose probabilities reach top_p, then a draw.
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bench/qwen3/random.h"

namespace quire::qwen3 {

struct SamplingOptions {
  double temperature = 0;  // >= 0
  uint32_t top_k = 0;      // 0: all
  double top_p = 1;        // in (0, 1]
  uint64_t seed = 0;
};

// One choice: the options, and the number that decides it.
struct Draw {
  double temperature;
  uint32_t top_k;
  double top_p;
  double uniform;  // in [0, 1); 0 when greedy
};

class Sampler {
 public:
  // Throws Error for options out of range.
  explicit Sampler(const SamplingOptions& options);

  int32_t pick(std::span<const float> logits);
  // What the next pick would have decided by, for whoever picks in its place.
  Draw draw();

 private:
  int32_t pick(std::span<const float> logits, const Draw& draw);

  struct Choice {
    int32_t token;
    double weight;  // first the logit, then its share
  };

  SamplingOptions options_;
  Random random_;
  std::vector<Choice> choices_;
};

}  // namespace quire::qwen3
