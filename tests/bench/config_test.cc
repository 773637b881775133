#include "bench/qwen3/config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "bench/qwen3/json_file.h"
#include "tests/bench/test_files.h"

namespace quire::qwen3 {
namespace {

using nlohmann::json;

json tiny_json() { return read_json(tiny_model() / "config.json"); }

TEST(ConfigTest, ReadsTheTinyModel) {
  const ModelConfig config = read_config(tiny_model());
  EXPECT_EQ(config.layers, 4u);
  EXPECT_EQ(config.query_size(), 512u);
  EXPECT_EQ(config.kv_size(), 256u);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.eos_tokens, std::vector<int32_t>{4093});
  EXPECT_EQ(config.rope.type, RopeType::kDefault);
  EXPECT_EQ(config.rope.theta, 1e7);
}

TEST(ConfigTest, BothSpellingsOfRopeMeanTheSame) {
  const json scaling{{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}};
  json one = tiny_json();
  one["rope_parameters"] = scaling;
  one["rope_parameters"]["rope_theta"] = 1e6;
  json other = tiny_json();
  other.erase("rope_parameters");
  other["rope_theta"] = 1000000;
  other["rope_scaling"] = scaling;
  json old = other;
  old["rope_scaling"].erase("rope_type");
  old["rope_scaling"]["type"] = "yarn";
  for (const json& config : {one, other, old}) {
    const RopeConfig rope = parse_config(config, "config.json").rope;
    EXPECT_EQ(rope.type, RopeType::kYarn);
    EXPECT_EQ(rope.theta, 1e6);
    EXPECT_EQ(rope.factor, 4);
    EXPECT_EQ(rope.original_positions, 32768u);
  }
  other["rope_scaling"] = nullptr;
  EXPECT_EQ(parse_config(other, "config.json").rope.type, RopeType::kDefault);
}

TEST(ConfigTest, OtherFamiliesMayLeaveHeadDimToTheHiddenSize) {
  json file = tiny_json();
  file.erase("head_dim");
  for (const std::string name : {"llama", "qwen2"}) {
    file["model_type"] = name;
    const ModelConfig config = parse_config(file, "config.json");
    EXPECT_EQ(config.head_dim, 64u);
    EXPECT_FALSE(config.family.head_norms);
    EXPECT_EQ(config.family.qkv_bias, name == "qwen2");
  }
  file["mlp_bias"] = true;
  EXPECT_NE(error_of([&] { (void)parse_config(file, "c"); }).find("mlp_bias"), std::string::npos);
}

struct Fault {
  std::string pointer;
  json value;  // null: as if the key were absent
  std::string expected;
};

TEST(ConfigTest, FaultsAreNamed) {
  const std::vector<Fault> faults{
      {"/head_dim", nullptr, "lacks the key \"head_dim\""},
      {"/hidden_size", nullptr, "lacks the key \"hidden_size\""},
      {"/rms_norm_eps", nullptr, "lacks the key \"rms_norm_eps\""},
      {"/rope_parameters", nullptr, "lacks the key \"rope_theta\""},
      {"/rope_parameters/rope_theta", -1, "above zero"},
      {"/rope_parameters/rope_type", "longrope", "longrope"},
      {"/rope_parameters/rope_type", "yarn", "lacks the key \"factor\""},
      {"/hidden_size", 0, "not an integer from 1"},
      {"/hidden_size", -5, "not an integer"},
      {"/hidden_size", 256.5, "not an integer"},
      {"/hidden_size", 1e18, "not an integer"},
      {"/hidden_size", "256", "not an integer"},
      {"/vocab_size", uint64_t{1} << 62, "not an integer"},
      {"/num_key_value_heads", 3, "num_attention_heads must be"},
      {"/head_dim", 40, "not a multiple of 32"},
      {"/head_dim", 288, "from 1 to 256"},
      {"/model_type", "qwen3_moe", "qwen3_moe"},
      {"/hidden_act", "gelu", "gelu"},
      {"/attention_bias", true, "attention_bias"},
      {"/attention_bias", 1, "neither true nor false"},
      {"/use_sliding_window", true, "use_sliding_window"},
      {"/eos_token_id", 4096, "no token of the model"},
      {"/eos_token_id", json::array({1, "x"}), "no token of the model"},
  };
  for (const Fault& fault : faults) {
    json config = tiny_json();
    config[json::json_pointer(fault.pointer)] = fault.value;
    const std::string message = error_of([&] { (void)parse_config(config, "config.json"); });
    EXPECT_NE(message.find(fault.expected), std::string::npos) << fault.pointer << ": " << message;
    EXPECT_EQ(message.rfind("config.json", 0), 0u) << "names the file: " << message;
  }
}

TEST(ConfigTest, GenerationConfigNamesTheEndTokens) {
  const TemporaryFolder folder;
  folder.write("config.json", tiny_json().dump());
  EXPECT_EQ(read_config(folder.path()).eos_tokens, std::vector<int32_t>{4093});
  folder.write("generation_config.json", R"({"eos_token_id":[4095,4093]})");
  EXPECT_EQ(read_config(folder.path()).eos_tokens, (std::vector<int32_t>{4095, 4093}));
  folder.write("generation_config.json", "{");
  EXPECT_NE(error_of([&] { (void)read_config(folder.path()); }).find("generation_config.json is not valid"),
            std::string::npos);
}

}  // namespace
}  // namespace quire::qwen3
