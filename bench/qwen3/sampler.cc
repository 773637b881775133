#include "bench/qwen3/sampler.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "bench/qwen3/error.h"
#include "bench/qwen3/ops.h"

namespace quire::qwen3 {

Sampler::Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    throw Error("temperature is " + std::to_string(options.temperature) + "; give 0 or more");
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    throw Error("top_p is " + std::to_string(options.top_p) + "; give a share above 0 and at most 1");
  }
}

Draw Sampler::draw() {
  return {options_.temperature, options_.top_k, options_.top_p,
          options_.temperature == 0 ? 0 : random_.uniform()};
}

int32_t Sampler::pick(std::span<const float> logits) { return pick(logits, draw()); }

int32_t Sampler::pick(std::span<const float> logits, const Draw& draw) {
  if (draw.temperature == 0) return argmax(logits);
  choices_.clear();
  for (size_t i = 0; i < logits.size(); ++i) choices_.push_back({static_cast<int32_t>(i), logits[i]});
  const auto better = [](const Choice& a, const Choice& b) {
    return a.weight > b.weight || (a.weight == b.weight && a.token < b.token);
  };
  const size_t keep = draw.top_k == 0 ? choices_.size() : std::min<size_t>(draw.top_k, choices_.size());
  std::partial_sort(choices_.begin(), choices_.begin() + static_cast<int64_t>(keep), choices_.end(), better);
  choices_.resize(keep);

  const double best = choices_.front().weight;
  double total = 0;
  for (Choice& choice : choices_) {
    choice.weight = std::exp((choice.weight - best) / draw.temperature);
    total += choice.weight;
  }
  size_t count = 0;
  double kept = 0;
  while (count < choices_.size() && (count == 0 || kept < draw.top_p * total)) {
    kept += choices_[count++].weight;
  }
  double left = draw.uniform * kept;
  for (size_t i = 0; i + 1 < count; ++i) {
    left -= choices_[i].weight;
    if (left < 0) return choices_[i].token;
  }
  return choices_[count - 1].token;
}

}  // namespace quire::qwen3
