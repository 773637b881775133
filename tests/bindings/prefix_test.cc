// Prefix reuse through the C API and the C++ binding: what is refused, what is found, what the figures say.
#include <gtest/gtest.h>

#include <algorithm>
#include <quire.hpp>
#include <vector>

#include "tests/support/temporary_store.h"

namespace quire::testing {
namespace {

constexpr uint32_t kHeadDim = 64;
constexpr uint32_t kPageTokens = 32;
constexpr uint64_t kTokens = 100;

quire_options with_store(const std::string& path) {
  quire_options options = quire::default_options();
  options.layers = 2;
  options.query_heads = 2;
  options.kv_heads = 1;
  options.head_dim = kHeadDim;
  options.page_tokens = kPageTokens;
  options.host_budget = 32 << 20;
  options.threads = 1;
  options.store_path = path.empty() ? nullptr : path.c_str();
  options.store_budget = 4 << 20;
  options.model_fingerprint[0] = 1;
  return options;
}

std::vector<int32_t> tokens() {
  std::vector<int32_t> out(kTokens);
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<int32_t>(3 * i);
  return out;
}

// Appends and attends [first, kTokens); returns the last layer's output of the last token.
std::vector<float> read(quire::Cache& cache, const quire::Sequence& sequence, uint64_t first) {
  const uint64_t count = kTokens - first;
  std::vector<float> keys(count * kHeadDim);
  std::vector<float> queries(count * 2 * kHeadDim);
  std::vector<float> out(queries.size());
  quire::Step step = cache.begin({{sequence, first, count}});
  for (uint32_t layer = 0; layer < 2; ++layer) {
    for (size_t i = 0; i < keys.size(); ++i) {
      keys[i] = static_cast<float>((i + first * kHeadDim + layer) * 7919 % 101) / 50.0F - 1;
    }
    for (size_t i = 0; i < queries.size(); ++i) {
      queries[i] = static_cast<float>((i + first * 2 * kHeadDim) * 104729 % 97) / 48.0F - 1;
    }
    step.append(layer, quire::input(keys.data()), quire::input(keys.data()));
    step.attend(layer, quire::input(queries.data()), quire::output(out.data()));
    EXPECT_EQ(step.wait(), quire::Outcome::kDone);
  }
  step.end();
  return {out.end() - 2 * kHeadDim, out.end()};
}

TEST(PrefixApi, SurvivesTheCacheWithItsNotes) {
  const TemporaryStore file;
  const std::string path = file.path();
  const std::vector<int32_t> text = tokens();
  std::vector<uint8_t> notes(kTokens / kPageTokens * QUIRE_NOTE_BYTES);
  for (size_t i = 0; i < notes.size(); ++i) notes[i] = static_cast<uint8_t>(i * 31);
  std::vector<float> expected;
  quire_prefix prefix = quire::tenant_prefix(text, 11, 12);
  {
    quire::Cache cache(with_store(path));
    quire::Sequence sequence = cache.create_sequence();
    EXPECT_EQ(cache.match(prefix), 0U);
    expected = read(cache, sequence, 0);
    prefix.notes = notes.data();
    EXPECT_EQ(sequence.publish(prefix), 3U);
    EXPECT_EQ(sequence.publish(prefix), 0U);
    EXPECT_EQ(cache.match(prefix), 96U);
    EXPECT_EQ(cache.stats().store_blocks, 3U);
    EXPECT_NE(cache.prometheus().find("quire_store_stored_blocks_total 3"), std::string::npos);
  }
  quire::Cache cache(with_store(path));
  quire::Sequence sequence = cache.create_sequence();
  std::vector<uint8_t> back(notes.size());
  prefix.notes = back.data();
  EXPECT_EQ(cache.match(prefix), 96U);
  EXPECT_EQ(cache.match(quire::tenant_prefix(text, 11, 13)), 0U);
  EXPECT_EQ(cache.match(quire::shared_prefix(text)), 0U);
  EXPECT_EQ(sequence.adopt(prefix), 96U);
  EXPECT_EQ(sequence.length(), 96U);
  EXPECT_EQ(back, notes);
  EXPECT_EQ(read(cache, sequence, 96), expected);
  quire::Sequence sharer = cache.create_sequence();
  EXPECT_EQ(sharer.adopt(prefix), 96U);
  const quire_stats stats = cache.stats();
  EXPECT_EQ(stats.prefix_loaded_tokens, 96U);
  EXPECT_EQ(stats.prefix_shared_tokens, 96U);
  EXPECT_EQ(stats.prefix_asked_tokens, 192U);
  EXPECT_EQ(stats.store_recovered_blocks, 3U);
  EXPECT_EQ(stats.pages, 6U) << "shared pages once";
}

TEST(PrefixApi, BadArgumentsGetASentence) {
  quire::Cache cache(with_store(""));
  quire::Sequence sequence = cache.create_sequence();
  const std::vector<int32_t> text = tokens();
  uint64_t count = 0;
  const auto refused = [&](const quire_prefix& prefix, const char* sentence) {
    EXPECT_EQ(quire_prefix_match(cache.get(), &prefix, &count), QUIRE_INVALID);
    EXPECT_NE(std::string(quire_last_error(cache.get())).find(sentence), std::string::npos)
        << quire_last_error(cache.get());
  };
  quire_prefix prefix = quire::tenant_prefix(text, 0, 0);
  refused(prefix, "tenant is zero");
  prefix.shared = 2;
  refused(prefix, "shared is 2");
  prefix = quire::tenant_prefix(text, 1, 0);
  prefix.shared = 1;
  refused(prefix, "either a tenant's own or shared");
  prefix = quire::shared_prefix(text);
  prefix.struct_size = 4;
  refused(prefix, "struct_size");
  prefix = quire::shared_prefix(text);
  prefix.tokens = nullptr;
  refused(prefix, "tokens is NULL");
  prefix = quire::shared_prefix(text);
  prefix.reserved[0] = 1;
  refused(prefix, "reserved");
  EXPECT_EQ(quire_prefix_match(cache.get(), nullptr, &count), QUIRE_INVALID);
  EXPECT_EQ(quire_prefix_match(cache.get(), &prefix, nullptr), QUIRE_INVALID);
  prefix = quire::shared_prefix(text);
  prefix.rope_epoch = 3;
  EXPECT_EQ(quire_prefix_adopt(sequence.get(), &prefix, &count), QUIRE_INVALID);
  prefix.rope_epoch = 0;
  EXPECT_EQ(quire_prefix_publish(sequence.get(), &prefix, nullptr), QUIRE_INVALID) << "more than it has";
  EXPECT_EQ(sequence.adopt(prefix), 0U);
}

TEST(PrefixApi, AStoreIsForOneCache) {
  const TemporaryStore file;
  const std::string path = file.path();
  quire_options options = with_store(path);
  quire::Cache cache(options);
  quire_cache* second = nullptr;
  EXPECT_EQ(quire_open(&options, &second), QUIRE_INVALID);
  EXPECT_NE(std::string(quire_last_error(nullptr)).find("is in use by another process or cache"),
            std::string::npos);
  options.model_fingerprint[0] = 0;
  EXPECT_EQ(quire_open(&options, &second), QUIRE_INVALID);
  EXPECT_NE(std::string(quire_last_error(nullptr)).find("model_fingerprint"), std::string::npos);
}

}  // namespace
}  // namespace quire::testing
