#include "bench/needles.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "bench/qwen3/json_file.h"
#include "bench/qwen3/model.h"
#include "tests/bench/test_files.h"

namespace quire::bench {
namespace {

const qwen3::Model& tiny() {
  static const qwen3::Model model = qwen3::load_model(qwen3::tiny_model());
  return model;
}

std::vector<int32_t> text_tokens() {
  return tiny().tokenizer.encode(qwen3::read_text(qwen3::tiny_model() / "text_end.txt"));
}

TEST(NeedlesTest, TheTextKeepsItsLengthAndItsEnd) {
  const std::vector<int32_t> text = text_tokens();
  const NeedleText planted = plant_needles(tiny().tokenizer, text, 2000, 600, 10, 1);
  ASSERT_EQ(planted.tokens.size(), 2000u);
  ASSERT_EQ(planted.needles.size(), 10u);
  EXPECT_TRUE(std::equal(planted.tokens.end() - 600, planted.tokens.end(), text.end() - 600));
}

TEST(NeedlesTest, EveryNeedleStandsOnALineOfItsOwnInOrder) {
  const NeedleText planted = plant_needles(tiny().tokenizer, text_tokens(), 3000, 600, 10, 7);
  const std::string text = tiny().tokenizer.decode(planted.tokens);
  size_t last = 0;
  for (const Needle& needle : planted.needles) {
    const std::string line = "The pass key of " + needle.name + " is " + needle.digits + ". Remember it.\n";
    const size_t at = text.find(line, last);
    ASSERT_NE(at, std::string::npos) << line;
    EXPECT_TRUE(at == 0 || text[at - 1] == '\n') << line;
    last = at + line.size();
  }
}

TEST(NeedlesTest, ASeedGivesOneText) {
  const std::vector<int32_t> text = text_tokens();
  const auto plant = [&](uint64_t seed) {
    return plant_needles(tiny().tokenizer, text, 1000, 100, 5, seed).tokens;
  };
  EXPECT_EQ(plant(3), plant(3));
  EXPECT_NE(plant(3), plant(4));
}

TEST(NeedlesTest, WithoutNeedlesTheTextIsItsEnd) {
  const std::vector<int32_t> text = text_tokens();
  const std::vector<int32_t> expected(text.end() - 500, text.end());
  EXPECT_EQ(plant_needles(tiny().tokenizer, text, 500, 250, 0, 1).tokens, expected);
}

TEST(NeedlesTest, WhatDoesNotFitIsAnError) {
  const std::vector<int32_t> text = text_tokens();
  const auto plant = [&](uint64_t length, uint32_t count) {
    return qwen3::error_of([&] { (void)plant_needles(tiny().tokenizer, text, length, 10, count, 1); });
  };
  EXPECT_NE(plant(100'000, 0).find("does not fit"), std::string::npos);
  EXPECT_NE(plant(50, 10).find("does not fit"), std::string::npos);
  EXPECT_NE(plant(5000, 100'000).find("lower --needles"), std::string::npos);
}

TEST(NeedlesTest, TheModelFindsThemAndNoOthers) {
  const NeedleText planted = plant_needles(tiny().tokenizer, text_tokens(), 700, 100, 3, 2);
  qwen3::ThreadPool pool(2);
  qwen3::Decoder decoder(tiny(), pool);
  qwen3::CacheOptions options;
  options.host_budget = 64 << 20;
  qwen3::Cache cache(qwen3::geometry_of(tiny()), options, pool);
  qwen3::Session session(decoder, cache, 700 + kQuestionTokens);
  session.read(std::span(planted.tokens).first(350), 0);
  session.read(std::span(planted.tokens).subspan(350), 0);
  for (Needle needle : planted.needles) {
    qwen3::Session right = session.fork();
    EXPECT_TRUE(ask(right, tiny().tokenizer, needle)) << needle.name;
    needle.digits.back() = needle.digits.back() == '9' ? '0' : '9';
    qwen3::Session wrong = session.fork();
    EXPECT_FALSE(ask(wrong, tiny().tokenizer, needle)) << needle.name;
  }
}

}  // namespace
}  // namespace quire::bench
