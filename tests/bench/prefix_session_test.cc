// Sessions that start behind what a store holds: the logits are those of the run that computed it, bit for
// bit.
#include <gtest/gtest.h>

#include "bench/qwen3/fingerprint.h"
#include "bench/qwen3/json_file.h"
#include "bench/qwen3/page_notes.h"
#include "bench/qwen3/reading.h"
#include "tests/bench/test_files.h"
#include "tests/support/temporary_store.h"

namespace quire::qwen3 {
namespace {

using testing::TemporaryStore;

const Model& tiny() {
  static const Model model = load_model(tiny_model());
  return model;
}

std::vector<int32_t> end_of_text(size_t count) {
  const std::vector<int32_t> ids = tiny().tokenizer.encode(read_text(tiny_model() / "text_end.txt"));
  return {ids.end() - static_cast<int64_t>(count), ids.end()};
}

CacheOptions with_store(const std::string& path) {
  CacheOptions options;
  options.host_budget = 32 << 20;
  options.chunk_tokens = 256;
  options.store_path = path;
  options.store_budget = 16 << 20;
  options.fingerprint = model_fingerprint(tiny(), options.prefill, options.select);
  return options;
}

struct Reading {
  uint64_t adopted = 0;
  uint64_t stored = 0;
  std::vector<float> logits;  // of the last token of the text, and of four more that follow it greedily
};

// One process's life: adopts, reads the rest, writes four tokens, publishes.
Reading run(const CacheOptions& options, std::span<const int32_t> text, const PrefixOwner& owner = {}) {
  ThreadPool pool(2);
  Decoder decoder(tiny(), pool);
  Cache cache(geometry_of(tiny()), options, pool);
  Session session(decoder, cache, text.size() + 8);
  Reading out;
  if (!options.store_path.empty()) out.adopted = session.adopt(text, owner);
  const auto add = [&](uint64_t, std::span<const float> row) {
    out.logits.insert(out.logits.end(), row.begin(), row.end());
  };
  read_rest(session, text, {add, 1, {}});
  const size_t vocab = out.logits.size();
  for (int i = 0; i < 4; ++i) {
    const std::span<const float> last = std::span(out.logits).last(vocab);
    const auto next = static_cast<int32_t>(std::max_element(last.begin(), last.end()) - last.begin());
    add(0, session.read({&next, 1}, 1));
  }
  if (!options.store_path.empty()) out.stored = session.publish(owner);
  return out;
}

TEST(PrefixSessionTest, LogitsAfterAHitAreThoseOfTheRunThatComputedIt) {
  const std::vector<int32_t> text = end_of_text(700);
  const TemporaryStore file;
  CacheOptions plain = with_store(file.path());
  plain.store_path.clear();
  const Reading cold = run(plain, text);
  const Reading first = run(with_store(file.path()), text);
  EXPECT_EQ(first.adopted, 0u);
  EXPECT_EQ(first.stored, 11u);
  const Reading again = run(with_store(file.path()), text);
  EXPECT_EQ(again.adopted, 640u);
  EXPECT_EQ(again.stored, 0u);
  EXPECT_EQ(first.logits, cold.logits);
  EXPECT_EQ(again.logits, cold.logits);
  std::printf("[counts] cases=3\n");
}

TEST(PrefixSessionTest, ModelsAndTenantsDoNotMeet) {
  const std::vector<int32_t> text = end_of_text(300);
  const TemporaryStore file;
  CacheOptions options = with_store(file.path());
  EXPECT_EQ(run(options, text, {{5, 6}}).stored, 4u);
  EXPECT_EQ(run(options, text, {{5, 6}}).adopted, 256u);
  EXPECT_EQ(run(options, text, {{5, 7}}).adopted, 0u);
  EXPECT_EQ(run(options, text, {}).adopted, 0u);
  options.fingerprint[1] ^= 1;
  EXPECT_EQ(run(options, text, {{5, 6}}).adopted, 0u);
}

TEST(PrefixSessionTest, NotesBringBackHowPagesWereRead) {
  const std::vector<ReadChunk> chunks{{70, false, 0, 70},
                                      {71, true, 70, 71},
                                      {128, false, 71, 300},
                                      {192, true, 71, 300},
                                      {300, false, 71, 300}};
  const std::vector<uint8_t> notes = notes_of(chunks, 64, 4);
  const std::vector<ReadChunk> back = chunks_of(notes, 64, 4, 512);
  const std::vector<ReadChunk> expected{{64, false, 0, 70},    {70, false, 0, 70},   {71, true, 70, 71},
                                        {128, false, 71, 300}, {192, true, 71, 300}, {256, false, 71, 300}};
  ASSERT_EQ(back.size(), expected.size());
  for (size_t i = 0; i < back.size(); ++i) {
    EXPECT_EQ(back[i].end, expected[i].end) << i;
    EXPECT_EQ(back[i].by_token, expected[i].by_token) << i;
    EXPECT_EQ(back[i].product_first, expected[i].product_first) << i;
    EXPECT_EQ(back[i].product_end, expected[i].product_end) << i;
  }
  const std::vector<ReadChunk> unknown = chunks_of(std::vector<uint8_t>(2 * QUIRE_NOTE_BYTES), 64, 2, 100);
  EXPECT_EQ(unknown.front().product_end, 64u + 36u);
  EXPECT_EQ(unknown.back().product_first, 100u);
}

}  // namespace
}  // namespace quire::qwen3
