// Windows of a text: as long as the model's positions and no longer.
#include "bench/quality/windows.h"

#include <gtest/gtest.h>

#include "bench/cache_setup.h"
#include "bench/qwen3/error.h"
#include "bench/qwen3/json_file.h"
#include "tests/bench/test_files.h"

namespace quire::bench {
namespace {

// The last token of a window is only predicted: it needs no position.
TEST(WindowScorer, ReadsAsManyTokensAsThereArePositions) {
  qwen3::Model model = qwen3::load_model(qwen3::tiny_model());
  model.config.max_positions = 128;
  const auto text = model.tokenizer.encode(qwen3::read_text(qwen3::tiny_model() / "text_end.txt"));
  qwen3::ThreadPool pool(2);
  qwen3::Decoder decoder(model, pool);
  const CommonOptions options{
      .model = {}, .json = {}, .calibration = {}, .cache = {}, .threads = 2, .seed = 0};
  const CacheSetup setup(options, decoder);
  const auto score = [&](uint64_t tokens) {
    WindowScorer scorer(decoder, last_windows(text, tokens, tokens, 1), 0, [](uint64_t) {});
    return scorer.run([&] { return setup.open({QUIRE_CODEC_BF16, QUIRE_CODEC_BF16}); });
  };
  EXPECT_GT(score(128).ppl, 1);
  try {
    score(129);
    FAIL() << "129 tokens were read at 128 positions";
  } catch (const qwen3::Error& error) {
    EXPECT_NE(std::string(error.what()).find("128 positions"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace quire::bench
