// Models from GGUF files against what Hugging Face makes of the same files (tests/models/README.md).
#include "bench/qwen3/gguf_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "bench/qwen3/decoder.h"
#include "bench/qwen3/gguf_config.h"
#include "bench/qwen3/gguf_tokenizer.h"
#include "bench/qwen3/json_file.h"
#include "bench/qwen3/mapped_file.h"
#include "bench/qwen3/ops.h"
#include "tests/bench/plain_attention.h"
#include "tests/bench/test_files.h"

namespace quire::qwen3 {
namespace {

using std::filesystem::path;

constexpr float kTolerance = 2e-4f;  // of the largest value, see tests/models/README.md

void expect_near(std::span<const float> actual, const std::vector<float>& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  float high = 0;
  float error = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    high = std::max(high, std::abs(expected[i]));
    error = std::max(error, std::abs(actual[i] - expected[i]));
  }
  EXPECT_LE(error, kTolerance * high) << what;
}

float rms(std::span<const float> row) {
  double sum = 0;
  for (const float x : row) sum += double{x} * x;
  return static_cast<float>(std::sqrt(sum / static_cast<double>(row.size())));
}

// Keeps the root mean square of each row of each layer's input, and the last row of the final norm.
class HiddenRecorder : public Observer {
 public:
  explicit HiddenRecorder(const ModelConfig& config) : config_(config) {}
  void on_hidden(uint32_t, std::span<const float> rows) override {
    for (size_t at = 0; at < rows.size(); at += config_.hidden_size) {
      rms_of_rows.push_back(rms(rows.subspan(at, config_.hidden_size)));
    }
    const auto tail = rows.last(config_.hidden_size);
    last.assign(tail.begin(), tail.end());
  }
  void on_qkv(uint32_t, std::span<const float>) override {}
  void on_attention(uint32_t, std::span<const float>) override {}

  std::vector<float> rms_of_rows;
  std::vector<float> last;

 private:
  const ModelConfig& config_;
};

// Compares everything in `folder` with what the decoder makes of `file`.
void expect_matches_hugging_face(const path& file, const path& folder) {
  const Model model = load_model(file);
  const nlohmann::json cases = read_json(folder / "tokenizer_cases.json");
  ASSERT_GE(cases["cases"].size(), 8u);
  for (const nlohmann::json& c : cases["cases"]) {
    const auto text = c["text"].get<std::string>();
    const auto ids = c["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(model.tokenizer.encode(text), ids) << text;
    EXPECT_EQ(model.tokenizer.encode(model.tokenizer.decode(ids)), ids) << text;
  }

  const TensorFiles reference(folder / "reference.safetensors");
  const auto floats = [&](const char* name) { return to_f32(reference.find(name)); };
  const auto tokens = [&](const char* name) {
    const std::vector<int64_t> ids = to_i64(reference.find(name));
    return std::vector<int32_t>(ids.begin(), ids.end());
  };
  const std::vector<int32_t> ids = tokens("input_ids");
  const auto count = static_cast<uint32_t>(ids.size());
  const size_t vocab = model.config.vocab_size;
  ThreadPool pool(2);
  Decoder decoder(model, pool);
  PlainAttention attention(model.config);
  HiddenRecorder recorder(model.config);
  const Rope rope = make_rope(model.config.rope, model.config.head_dim, model.config.max_positions, count);
  const ProductRows whole{count, 0, count};
  const auto logits = decoder.forward({ids, 0, {&whole, 1}, &rope}, attention, count, &recorder);
  expect_near(recorder.rms_of_rows, floats("hidden_rms"), "rms of hidden rows");
  expect_near(recorder.last, floats("final_hidden_last"), "output of the final norm");
  expect_near(logits.last(vocab), floats("logits_last"), "logits");
  std::vector<float> nll;
  for (size_t i = 0; i + 1 < count; ++i) {
    nll.push_back(static_cast<float>(negative_log_likelihood(logits.subspan(i * vocab, vocab), ids[i + 1])));
  }
  expect_near(nll, floats("nll"), "negative log likelihood");

  std::vector<int32_t> written{argmax(logits.last(vocab))};
  while (written.size() < 24) {
    const ProductRows one{1, 0, 1};
    const uint64_t position = count + written.size() - 1;
    const auto next = decoder.forward({{&written.back(), 1}, position, {&one, 1}, &rope}, attention, 1);
    written.push_back(argmax(next));
  }
  std::vector<int32_t> expected = tokens("greedy24");
  written.resize(expected.size());  // transformers stops at the end of the text
  EXPECT_EQ(written, expected);
}

TEST(GgufModelTest, LlamaMatchesHuggingFace) {
  expect_matches_hugging_face(test_models() / "gguf" / "llama.gguf", test_models() / "gguf" / "llama");
}

TEST(GgufModelTest, Qwen2MatchesHuggingFace) {
  expect_matches_hugging_face(test_models() / "gguf" / "qwen2.gguf", test_models() / "gguf" / "qwen2");
}

TEST(GgufModelTest, Qwen3MatchesHuggingFace) {
  expect_matches_hugging_face(test_models() / "gguf" / "qwen3.gguf", test_models() / "gguf" / "qwen3");
}

TEST(GgufModelTest, SmolLm2MatchesHuggingFace) {
  const char* file = std::getenv("QUIRE_SMOLLM2");
  if (file == nullptr || *file == '\0') {
    GTEST_SKIP() << "QUIRE_SMOLLM2 does not name the model; bench/smollm2.sh fetches it and prints its path";
  }
  expect_matches_hugging_face(file, test_models() / "smollm2");
}

TEST(GgufModelTest, FaultsOfTheMetadataAreNamed) {
  const path file = test_models() / "gguf" / "llama.gguf";
  const MappedFile mapped(file);
  const Gguf good = parse_gguf(mapped.bytes(), "m.gguf");
  struct Fault {
    std::string key;
    nlohmann::json value;  // null: as if the key were absent
    std::string expected;
  };
  const std::vector<Fault> faults{
      {"general.architecture", nullptr, "lacks the key \"general.architecture\""},
      {"general.architecture", "gpt2", "\"gpt2\"; dense qwen3, qwen2 and llama"},
      {"llama.block_count", nullptr, "lacks the key \"llama.block_count\""},
      {"llama.block_count", "two", "not an integer"},
      {"llama.embedding_length", 0, "not an integer from 1"},
      {"llama.attention.head_count_kv", 2, "num_attention_heads must be"},
      {"llama.attention.head_count", 2, "48 channels"},
      {"llama.attention.head_count", 16, "6 channels"},
      {"llama.attention.layer_norm_rms_epsilon", nullptr, "lacks the key"},
      {"llama.rope.dimension_count", 16, "llama.rope.dimension_count"},
      {"llama.rope.scaling.type", "yarn", "yarn"},
      {"llama.rope.scaling.type", "linear", "lacks the key \"llama.rope.scaling.factor\""},
      {"llama.expert_count", 8, "llama.expert_count"},
      {"tokenizer.ggml.eos_token_id", 1 << 20, "not an integer"},
      {"tokenizer.ggml.model", "llama", "\"llama\"; byte-level BPE"},
      {"tokenizer.ggml.pre", "default", "\"default\"; smollm and qwen2"},
      {"tokenizer.ggml.merges", nullptr, "lacks the key \"tokenizer.ggml.merges\""},
      {"tokenizer.ggml.merges", "Ga", "not an array"},
      {"tokenizer.ggml.merges", nlohmann::json{"nopair"}, "no pair of tokens"},
      {"tokenizer.ggml.token_type", nlohmann::json{1}, "1 entries for 271 tokens"},
      {"tokenizer.ggml.tokens", nlohmann::json(std::vector<std::string>(271, "a")), "same as one before"},
      {"tokenizer.ggml.tokens", nlohmann::json(std::vector<int>(271, 5)), "not a string"},
      {"tokenizer.ggml.token_type", nlohmann::json(std::vector<int>(271, 6)), "type 6"},
  };
  for (const Fault& fault : faults) {
    Gguf gguf = good;
    gguf.metadata[fault.key] = fault.value;
    const std::string message = error_of([&] {
      (void)gguf_config(gguf, "m.gguf");
      (void)gguf_tokenizer(gguf, "m.gguf");
    });
    EXPECT_NE(message.find(fault.expected), std::string::npos) << fault.key << ": " << message;
    EXPECT_EQ(message.rfind("m.gguf", 0), 0u) << "names the file: " << message;
  }
}

// llama.gguf with `from` replaced by `to`, which is as long.
std::string damaged(const std::string& from, const std::string& to) {
  std::string file = read_text(test_models() / "gguf" / "llama.gguf");
  const size_t at = file.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return file.replace(at, to.size(), to);
}

TEST(GgufModelTest, FaultsOfTheFileAreNamed) {
  const std::string blocks = std::string("llama.block_count") + std::string("\4\0\0\0", 4);  // and a uint32
  const std::string inner = std::string("llama.feed_forward_length") + std::string("\4\0\0\0", 4);
  const std::vector<std::pair<std::string, std::string>> faults{
      // Seven gigabytes, had they been asked for first.
      {damaged(inner + std::string("\0\1", 2), inner + std::string("\0\0\0\1", 4)),
       "asks for [16777216, 96]"},
      {damaged("token_embd", "token_emb_"), "lacks tensor token_embd.weight"},
      {damaged("blk.1.ffn_up", "blk.1.ffn_xx"), "lacks tensor blk.1.ffn_up.weight"},
      {damaged(blocks + "\2", blocks + "\1"),
       "tensor blk.1.attn_k.weight, which the decoder of llama has no use"},
      {damaged(blocks + "\2", blocks + "\3"), "lacks tensor blk.2.attn_norm.weight"},
      {damaged("", "").substr(0, 300'000), "reaches beyond the end of the file"},
      {"", "is empty"},
  };
  const TemporaryFolder folder;
  for (const auto& [bytes, expected] : faults) {
    const path file = folder.write("bad.gguf", bytes);
    const std::string message = error_of([&] { (void)load_model(file); });
    EXPECT_NE(message.find(expected), std::string::npos) << expected << ": " << message;
    EXPECT_NE(message.find("bad.gguf"), std::string::npos) << "names the file: " << message;
  }
  EXPECT_NE(error_of([&] { (void)load_model(folder.path() / "none.gguf"); }).find("none.gguf"),
            std::string::npos);
}

}  // namespace
}  // namespace quire::qwen3
