// Appends random keys and values to a cache, attends over them, prints what the cache holds.
#include <iostream>
#include <quire.hpp>
#include <random>
#include <vector>

constexpr uint32_t kLayers = 2, kQueryHeads = 8, kKvHeads = 2, kHeadDim = 128;
constexpr uint64_t kTokens = 512, kSteps = 4;

int main() try {
  quire_options options = quire::default_options();
  options.layers = kLayers;
  options.query_heads = kQueryHeads;
  options.kv_heads = kKvHeads;
  options.head_dim = kHeadDim;
  options.host_budget = 64 << 20;

  quire::Cache cache(options);
  quire::Sequence sequence = cache.create_sequence();

  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto randoms = [&](size_t n) {
    std::vector<float> x(n);
    for (float& value : x) value = normal(random);
    return x;
  };

  std::vector<float> out(kTokens * kQueryHeads * kHeadDim);
  for (uint64_t first = 0; first < kSteps * kTokens; first += kTokens) {
    quire::Step step = cache.begin({{sequence, first, kTokens}});
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      const std::vector<float> keys = randoms(kTokens * kKvHeads * kHeadDim);
      const std::vector<float> values = randoms(kTokens * kKvHeads * kHeadDim);
      const std::vector<float> queries = randoms(kTokens * kQueryHeads * kHeadDim);
      step.append(layer, quire::input(keys.data()), quire::input(values.data()));
      step.attend(layer, quire::input(queries.data()), quire::output(out.data()));
      if (step.wait() == quire::Outcome::kMiss) {
        std::cerr << "pages were lost: compute their keys and values again and refill them\n";
        return 1;
      }
    }
    step.end();
  }

  const quire_stats stats = cache.stats();
  std::cout << stats.tokens << " tokens in " << stats.pages << " pages: " << stats.page_bits
            << " bits per value in pages, " << stats.effective_bits << " in all, "
            << static_cast<double>(stats.host_bytes) / 1e6 << " MB of memory\n";
  return 0;
} catch (const quire::Error& error) {
  std::cerr << error.what() << "\n";
  return 2;
}
