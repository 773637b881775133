// Random calls of the C API with good, stale, foreign and null handles and odd arguments: every call returns
// a status, a failure has a sentence, nothing crashes, leaks or hangs.
#include <gtest/gtest.h>

#include <vector>

#include "bindings/c/quire.h"
#include "tests/fuzz/seeds.h"

namespace quire::testing {
namespace {

constexpr uint32_t kLayers = 2;
constexpr uint32_t kHeads = 2;
constexpr uint32_t kDim = 32;
constexpr uint32_t kMaxTokens = 64;

class ApiFuzz {
 public:
  explicit ApiFuzz(uint64_t seed)
      : random_(seed), tensor_(size_t{kMaxTokens} * kHeads * kDim), out_(tensor_.size()) {
    for (float& x : tensor_) x = static_cast<float>(random_.below(2001)) / 1000.0F - 1.0F;
    open();
  }
  ~ApiFuzz() {
    EXPECT_EQ(quire_close(cache_), QUIRE_OK);
    EXPECT_EQ(quire_close(cache_), cache_ == nullptr ? QUIRE_OK : QUIRE_INVALID);  // use after close
  }
  ApiFuzz(const ApiFuzz&) = delete;
  ApiFuzz& operator=(const ApiFuzz&) = delete;

  void step() {
    switch (random_.below(14)) {
      case 0:
        create();
        break;
      case 1:
        expect(quire_sequence_fork(sequence(), &scratch_sequence_));
        keep(scratch_sequence_);
        break;
      case 2:
        expect(quire_sequence_truncate(sequence(), random_.below(200)));
        break;
      case 3:
        expect(quire_sequence_free(sequence()));
        break;
      case 4:
        begin();
        break;
      case 5:
      case 6:
        append();
        break;
      case 7:
      case 8:
        attend();
        break;
      case 9:
        expect(random_.chance(2) ? quire_step_wait(step_) : quire_step_poll(step_));
        break;
      case 10:
        end();
        break;
      case 11:
        refill();
        break;
      case 12:
        stats();
        break;
      default:
        whole_step();
        break;
    }
  }

 private:
  void open() {
    quire_options options;
    quire_options_init(&options);
    options.layers = kLayers;
    options.query_heads = kHeads;
    options.kv_heads = kHeads;
    options.head_dim = kDim;
    options.page_tokens = 32;
    options.threads = 1;
    options.max_step_tokens = kMaxTokens;
    options.host_budget = uint64_t{3} << 20;
    const quire_codec codecs[] = {QUIRE_CODEC_F32,  QUIRE_CODEC_BF16,  QUIRE_CODEC_INT4,
                                  QUIRE_CODEC_ROT4, QUIRE_CODEC_NUQ3S, QUIRE_CODEC_NUQ2};
    options.key_codec = codecs[random_.below(6)];
    options.value_codec = codecs[random_.below(6)];
    ASSERT_EQ(quire_open(&options, &cache_), QUIRE_OK) << quire_last_error(nullptr);
  }

  void expect(quire_status status) {
    EXPECT_LE(status, QUIRE_INTERNAL);
    EXPECT_NE(status, QUIRE_INTERNAL) << quire_last_error(cache_);
    if (status != QUIRE_OK && status != QUIRE_NOT_READY) {
      const char* of_cache = quire_last_error(cache_);
      const char* of_handle = quire_last_error(nullptr);
      EXPECT_TRUE(*of_cache != '\0' || *of_handle != '\0');
    }
  }

  void keep(quire_sequence* sequence) {
    if (sequence != nullptr) sequences_.push_back(sequence);
  }

  // Mostly an open sequence; freed ones stay in the list and are stale.
  quire_sequence* sequence() {
    if (sequences_.empty() || random_.chance(30)) return nullptr;
    if (random_.chance(30)) return reinterpret_cast<quire_sequence*>(cache_);
    return sequences_[random_.below(sequences_.size())];
  }

  void create() {
    expect(quire_sequence_create(random_.chance(20) ? nullptr : cache_, &scratch_sequence_));
    keep(scratch_sequence_);
  }

  void begin() {
    quire_step_entry entry{sequence(), random_.below(100), random_.below(kMaxTokens + 4)};
    uint64_t length = 0;
    if (random_.below(4) != 0 && quire_sequence_length(entry.sequence, &length) == QUIRE_OK)
      entry.first = length;
    quire_step* step = nullptr;
    const quire_status status =
        quire_step_begin(cache_, &entry, random_.below(10) == 0 ? 0 : 1, nullptr, &step);
    expect(status);
    if (status != QUIRE_OK) return;
    if (step_ != nullptr) expect(quire_step_end(step_));
    step_ = step;
  }

  quire_tensor tensor(float* data) {
    quire_tensor t{};
    t.data = random_.chance(40) ? nullptr : data;
    t.dtype = random_.chance(40) ? static_cast<quire_dtype>(9) : QUIRE_F32;
    return t;
  }

  void append() {
    quire_append_args args;
    quire_append_args_init(&args);
    args.keys = tensor(tensor_.data());
    args.values = tensor(tensor_.data());
    if (random_.chance(40)) args.struct_size = 3;
    expect(quire_append(step_, static_cast<uint32_t>(random_.below(kLayers + 1)), &args));
  }

  void attend() {
    quire_attend_args args;
    quire_attend_args_init(&args);
    args.queries = tensor(tensor_.data());
    args.out = tensor(out_.data());
    args.window = random_.chance(3) ? random_.below(100) : 0;
    expect(quire_choose_ahead(step_, static_cast<uint32_t>(random_.below(kLayers + 1)), &args));
    expect(quire_attend(step_, static_cast<uint32_t>(random_.below(kLayers + 1)), &args));
  }

  void end() {
    expect(quire_step_end(step_));
    if (random_.below(4) != 0) step_ = nullptr;  // else it is stale from here on
  }

  void refill() {
    const quire_tensor t = tensor(tensor_.data());
    expect(quire_refill(sequence(), static_cast<uint32_t>(random_.below(kLayers + 1)), 32 * random_.below(4),
                        32 * random_.below(3), &t, &t));
  }

  void stats() {
    quire_stats stats{};
    stats.struct_size = random_.chance(10) ? 1 : sizeof stats;
    expect(quire_cache_stats(cache_, &stats));
    expect(quire_flush(cache_));
    expect(quire_prefetch(sequence(), static_cast<uint32_t>(random_.below(3)), random_.below(100),
                          random_.next()));
  }

  void whole_step() {
    begin();
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      quire_append_args kv;
      quire_append_args_init(&kv);
      kv.keys.data = kv.values.data = tensor_.data();
      expect(quire_append(step_, layer, &kv));
      quire_attend_args q;
      quire_attend_args_init(&q);
      q.queries.data = tensor_.data();
      q.out.data = out_.data();
      expect(quire_attend(step_, layer, &q));
      expect(quire_step_wait(step_));
    }
    expect(quire_step_end(step_));
    step_ = nullptr;
  }

  Random random_;
  std::vector<float> tensor_;
  std::vector<float> out_;
  quire_cache* cache_ = nullptr;
  quire_sequence* scratch_sequence_ = nullptr;
  std::vector<quire_sequence*> sequences_;
  quire_step* step_ = nullptr;
};

TEST(ApiFuzz, EveryCallReturns) {
  const uint64_t seeds = seed_count(60);
  constexpr uint64_t kCalls = 120;
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    ApiFuzz fuzz(seed);
    for (uint64_t i = 0; i < kCalls; ++i) fuzz.step();
    if (HasFailure()) break;
  }
  report_counts(seeds * kCalls, seeds);
}

}  // namespace
}  // namespace quire::testing
