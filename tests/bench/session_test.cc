// The decoder over a Quire cache: against plain attention, Hugging Face's figures, and itself under faults.
#include "bench/qwen3/session.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "bench/qwen3/json_file.h"
#include "bench/qwen3/reading.h"
#include "bench/qwen3/score.h"
#include "tests/bench/plain_attention.h"
#include "tests/bench/test_files.h"

namespace quire::qwen3 {
namespace {

const Model& tiny() {
  static const Model model = load_model(tiny_model());
  return model;
}

std::vector<int32_t> end_of_text(size_t count) {
  const std::vector<int32_t> ids = tiny().tokenizer.encode(read_text(tiny_model() / "text_end.txt"));
  return {ids.end() - static_cast<int64_t>(count), ids.end()};
}

CacheOptions with_codec(quire_codec key, quire_codec value) {
  CacheOptions options;
  options.key_codec = key;
  options.value_codec = value;
  options.host_budget = 64 << 20;
  return options;
}

// A model with a cache of its own.
struct Fixture {
  explicit Fixture(const CacheOptions& options, uint32_t threads = 2)
      : pool(threads), decoder(tiny(), pool), cache(geometry_of(tiny()), options, pool) {}
  ThreadPool pool;
  Decoder decoder;
  Cache cache;
};

// Logits of the last `rows` tokens of a text that is read in the given chunks, the last one repeated.
std::vector<float> read_logits(const CacheOptions& options, std::span<const int32_t> text,
                               const std::vector<size_t>& chunks, size_t rows, uint32_t threads = 2) {
  Fixture f(options, threads);
  Session session(f.decoder, f.cache, text.size());
  std::vector<float> logits;
  for (size_t at = 0, i = 0; at < text.size(); ++i) {
    const size_t count = std::min(chunks[std::min(i, chunks.size() - 1)], text.size() - at);
    const size_t end = at + count;
    const size_t wanted = end - std::clamp(text.size() - rows, at, end);
    const auto out = session.read(text.subspan(at, count), static_cast<uint32_t>(wanted));
    logits.insert(logits.end(), out.begin(), out.end());
    at = end;
  }
  return logits;
}

float largest_error(std::span<const float> a, std::span<const float> b) {
  float error = 0;
  for (size_t i = 0; i < a.size(); ++i) error = std::max(error, std::abs(a[i] - b[i]));
  return error;
}

float largest(std::span<const float> a) {
  float high = 0;
  for (const float value : a) high = std::max(high, std::abs(value));
  return high;
}

std::vector<float> plain_logits(std::span<const int32_t> text, uint32_t rows) {
  ThreadPool pool(1);
  Decoder decoder(tiny(), pool);
  PlainAttention attention(tiny().config);
  const Rope rope = make_rope(tiny().config.rope, 128, tiny().config.max_positions, text.size());
  const auto count = static_cast<uint32_t>(text.size());
  const ProductRows whole{count, 0, count};
  const auto logits = decoder.forward({text, 0, {&whole, 1}, &rope}, attention, rows);
  return {logits.begin(), logits.end()};
}

TEST(SessionTest, PagedAttentionEqualsContiguousAttention) {
  const std::vector<int32_t> text = end_of_text(333);
  const std::vector<float> plain = plain_logits(text, 40);
  for (const quire_key_space space : {QUIRE_POST_ROPE, QUIRE_PRE_ROPE}) {
    CacheOptions options = with_codec(QUIRE_CODEC_F32, QUIRE_CODEC_F32);
    options.key_space = space;
    const std::vector<float> paged = read_logits(options, text, {100, 200, 1}, 40);
    ASSERT_EQ(paged.size(), plain.size());
    EXPECT_LE(largest_error(paged, plain), 2e-4 * largest(plain)) << "key space " << space;
  }
}

TEST(SessionTest, GreedyTokensMatchTransformersWithUnquantizedPages) {
  const TensorFiles reference(tiny_model() / "reference.safetensors");
  const auto ids = [&](const char* name) {
    const std::vector<int64_t> wide = to_i64(reference.find(name));
    return std::vector<int32_t>(wide.begin(), wide.end());
  };
  for (const quire_codec codec : {QUIRE_CODEC_F32, QUIRE_CODEC_BF16}) {
    Fixture f(with_codec(codec, codec));
    Session session(f.decoder, f.cache, 208);
    Sampler greedy({});
    EXPECT_EQ(generate(session, ids("input_ids"), greedy, 48, {}), ids("greedy48"));
  }
}

double perplexity_of_end(const CacheOptions& options, size_t context, size_t scored) {
  const std::vector<int32_t> text = end_of_text(context + 1);
  Fixture f(options);
  Session session(f.decoder, f.cache, context);
  Perplexity perplexity;
  const ReadingHooks hooks{
      [&](uint64_t index, std::span<const float> logits) { perplexity.add(logits, text[index + 1]); },
      scored,
      {}};
  read_text(session, std::span(text).first(context), hooks);
  EXPECT_EQ(perplexity.tokens(), scored);
  return perplexity.value();
}

TEST(SessionTest, PerplexityWithBf16PagesEqualsTransformers) {
  const TensorFiles reference(tiny_model() / "reference.safetensors");
  const double expected = to_f32(reference.find("ppl.context2048"))[0];
  const double actual = perplexity_of_end(with_codec(QUIRE_CODEC_BF16, QUIRE_CODEC_BF16), 2048, 1024);
  EXPECT_NEAR(actual, expected, 1e-3 * expected);
}

TEST(SessionTest, Rot4CostsLessThanOnePercentOfPerplexity) {
  const double plain = perplexity_of_end(with_codec(QUIRE_CODEC_BF16, QUIRE_CODEC_BF16), 1024, 512);
  const double folded = perplexity_of_end(with_codec(QUIRE_CODEC_ROT4, QUIRE_CODEC_ROT4), 1024, 512);
  EXPECT_NE(folded, plain);
  EXPECT_NEAR(folded, plain, 0.01 * plain);
}

TEST(SessionTest, BitsDoNotDependOnThreads) {
  const std::vector<int32_t> text = end_of_text(300);
  const CacheOptions options = with_codec(QUIRE_CODEC_ROT4, QUIRE_CODEC_ROT3);
  const std::vector<float> one = read_logits(options, text, {256, 1}, 20, 1);
  for (const uint32_t threads : {2, 3}) EXPECT_EQ(read_logits(options, text, {256, 1}, 20, threads), one);
}

CacheOptions spilling(const CacheOptions& base, const std::filesystem::path& folder) {
  CacheOptions options = base;
  options.host_budget = 8 << 20;
  options.nvme_budget = 64 << 20;
  options.nvme_path = folder;
  options.chunk_tokens = 256;
  return options;
}

// Through host memory to disk, and from a device's memory by way of the host's.
TEST(SessionTest, ContextsLargerThanMemoryGiveTheSameBits) {
  const std::vector<int32_t> text = end_of_text(2500);
  const CacheOptions roomy = with_codec(QUIRE_CODEC_BF16, QUIRE_CODEC_BF16);
  const std::vector<float> expected = read_logits(roomy, text, {256}, 20);
  for (const uint64_t device_budget : {0, 2 << 20}) {
    const TemporaryFolder folder;
    CacheOptions options = spilling(roomy, folder.path());
    options.device_budget = device_budget;
    Fixture f(options);
    Session session(f.decoder, f.cache, text.size());
    std::vector<float> logits;
    const ReadingHooks hooks{
        [&](uint64_t, std::span<const float> row) { logits.insert(logits.end(), row.begin(), row.end()); },
        20,
        {}};
    read_text(session, text, hooks);
    const quire_stats stats = f.cache.stats();
    EXPECT_GT(stats.nvme_pages, 0u) << "the context must not fit into memory";
    EXPECT_EQ(stats.device_pages > 0, device_budget > 0);
    EXPECT_LE(stats.device_bytes, device_budget);
    EXPECT_EQ(logits, expected);
  }
}

// The cache's spill file has no name; it is found among this process's descriptors.
class SpillFile {
 public:
  explicit SpillFile(const std::filesystem::path& folder) {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code gone;
      const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
      if (target.rfind(folder.string() + "/", 0) == 0) fd_ = open(entry.path().c_str(), O_RDWR | O_CLOEXEC);
    }
  }
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;
  ~SpillFile() {
    if (fd_ >= 0) close(fd_);
  }

  bool found() const { return fd_ >= 0; }
  uint64_t size() const { return static_cast<uint64_t>(lseek(fd_, 0, SEEK_END)); }

  void flip_bits() {
    std::vector<char> bytes(size());
    ASSERT_EQ(pread(fd_, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    for (size_t at = 100; at < bytes.size(); at += 1000) bytes[at] ^= 4;
    write_back(bytes);
  }
  void swap_halves() {
    std::vector<char> bytes(size());
    ASSERT_EQ(pread(fd_, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    std::rotate(bytes.begin(), bytes.begin() + static_cast<int64_t>(bytes.size() / 8192 * 4096), bytes.end());
    write_back(bytes);
  }
  void zero() { write_back(std::vector<char>(size())); }
  void truncate() { ASSERT_EQ(ftruncate(fd_, 1 << 20), 0); }

 private:
  void write_back(const std::vector<char>& bytes) {
    ASSERT_EQ(pwrite(fd_, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    ASSERT_EQ(fsync(fd_), 0);
  }
  int fd_ = -1;
};

// Reads 1600 tokens in chunks whose boundaries lie inside pages, some of one token; then, after `fault`, two
// chunks more. Returns their logits.
std::vector<float> read_through(Fixture& f, const std::function<void()>& fault, uint64_t* recomputed) {
  const std::vector<int32_t> text = end_of_text(1600);
  Session session(f.decoder, f.cache, text.size());
  const auto read = [&](size_t count, uint32_t rows) {
    return session.read(std::span(text).subspan(session.length(), count), rows);
  };
  while (session.length() < 600) read(200, 0);
  while (session.length() < 620) read(1, 0);
  while (session.length() < 1500) read(220, 0);
  fault();
  std::vector<float> logits;
  for (const size_t count : {99, 1}) {
    const auto out = read(count, 1);
    logits.insert(logits.end(), out.begin(), out.end());
  }
  *recomputed = session.recomputed_tokens();
  return logits;
}

void expect_recovery(quire_codec codec, uint64_t host_budget, void (SpillFile::*fault)()) {
  uint64_t recomputed = 0;
  Fixture clean(with_codec(codec, codec));
  const std::vector<float> expected = read_through(
      clean, [] {}, &recomputed);
  EXPECT_EQ(recomputed, 0u);

  const TemporaryFolder folder;
  CacheOptions options = spilling(with_codec(codec, codec), folder.path());
  options.host_budget = host_budget;
  Fixture f(options);
  const auto damage = [&] {
    SpillFile file(folder.path());
    ASSERT_TRUE(file.found());
    (file.*fault)();
  };
  EXPECT_EQ(read_through(f, damage, &recomputed), expected);
  EXPECT_GT(recomputed, 0u) << "the fault must hit";
}

TEST(SessionTest, FlippedBitsAreRecomputedToTheSameBits) {
  expect_recovery(QUIRE_CODEC_BF16, 8 << 20, &SpillFile::flip_bits);
}
TEST(SessionTest, MisplacedPagesAreRecomputedToTheSameBits) {
  expect_recovery(QUIRE_CODEC_BF16, 8 << 20, &SpillFile::swap_halves);
}
TEST(SessionTest, ZeroedPagesAreRecomputedToTheSameBits) {
  expect_recovery(QUIRE_CODEC_INT8, 7 << 20, &SpillFile::zero);
}
TEST(SessionTest, CutOffPagesAreRecomputedToTheSameBits) {
  expect_recovery(QUIRE_CODEC_BF16, 8 << 20, &SpillFile::truncate);
}

// A budget that opens although 16 KiB less does not.
uint64_t smallest_host_budget(CacheOptions options) {
  const auto opens = [&](uint64_t blocks) {
    options.host_budget = blocks << 14;
    try {
      const Fixture opened(options);
      return true;
    } catch (const Error&) {
      return false;
    }
  };
  uint64_t refused = 0;
  uint64_t opened = 1 << 10;
  while (opened - refused > 1) {
    const uint64_t middle = refused + (opened - refused) / 2;
    (opens(middle) ? opened : refused) = middle;
  }
  return opened << 14;
}

TEST(SessionTest, TheSmallestBudgetsRecoverToo) {
  expect_recovery(QUIRE_CODEC_INT8, 7 << 20, &SpillFile::zero);
  for (const quire_codec codec : {QUIRE_CODEC_INT8, QUIRE_CODEC_BF16}) {
    const TemporaryFolder folder;
    const uint64_t smallest = smallest_host_budget(spilling(with_codec(codec, codec), folder.path()));
    expect_recovery(codec, smallest, &SpillFile::zero);
  }
}

TEST(SessionTest, ForksContinueOnTheirOwn) {
  const std::vector<int32_t> text = end_of_text(200);
  Fixture f(with_codec(QUIRE_CODEC_ROT4, QUIRE_CODEC_ROT4));
  Session session(f.decoder, f.cache, 300);
  const std::vector<int32_t> question{436, 574, 1417};
  session.read(std::span(text).first(150), 0);
  Session fork = session.fork();
  const auto after = [&](Session& s) {
    const auto logits = s.read(question, 1);
    return std::vector<float>(logits.begin(), logits.end());
  };
  const std::vector<float> first = after(fork);
  session.read(std::span(text).subspan(150), 0);
  EXPECT_EQ(fork.length(), 153u);
  EXPECT_EQ(session.length(), 200u);

  Session alone(f.decoder, f.cache, 300);
  alone.read(std::span(text).first(150), 0);
  EXPECT_EQ(after(alone), first);
}

TEST(SessionTest, AForkMayChooseInAnotherWayUntilTokensChose) {
  const std::vector<int32_t> text = end_of_text(400);
  CacheOptions options = with_codec(QUIRE_CODEC_ROT4, QUIRE_CODEC_ROT4);
  options.digests = true;
  Fixture f(options);
  Session session(f.decoder, f.cache, 500);
  session.read(std::span(text).first(399), 0);
  const SelectionOptions few{QUIRE_SELECT_TOP_PAGES, 1, 0, 0, false};
  Session fork = session.fork(few);
  const auto chosen = [&] { return f.cache.stats().selected_rows; };
  session.read(std::span(text).last(1), 1);
  EXPECT_EQ(chosen(), 0u);
  fork.read(std::span(text).last(1), 1);
  EXPECT_GT(chosen(), 0u);
  EXPECT_NE(error_of([&] { (void)session.fork(few); }).find("fork before them"), std::string::npos);
  EXPECT_EQ(fork.fork(few).length(), 400u);
}

TEST(SessionTest, WhatDoesNotFitIsAnError) {
  Fixture f(with_codec(QUIRE_CODEC_ROT4, QUIRE_CODEC_ROT4));
  const uint64_t positions = tiny().config.max_positions;
  EXPECT_NE(error_of([&] { Session(f.decoder, f.cache, positions + 1); }).find("1048576 positions"),
            std::string::npos);
  Session session(f.decoder, f.cache, 10);
  EXPECT_NE(error_of([&] { session.read(end_of_text(11), 0); }).find("10 tokens"), std::string::npos);
  Sampler greedy({});
  EXPECT_NE(error_of([&] { generate(session, {}, greedy, 1, {}); }).find("prompt is empty"),
            std::string::npos);
}

TEST(SessionTest, CacheOptionsThatCannotBeAreErrors) {
  CacheOptions options;
  options.host_budget = 4096;
  EXPECT_NE(error_of([&] { Fixture f(options); }), "");
  options = {};
  options.nvme_budget = 1 << 20;
  options.nvme_path = "/proc/none";
  EXPECT_NE(error_of([&] { Fixture f(options); }).find("/proc/none"), std::string::npos);
  EXPECT_NE(error_of([] { parse_codec("rot5"); }).find("choose from"), std::string::npos);
}

}  // namespace
}  // namespace quire::qwen3
