// Where the tests of the whole engine run: over the emulator's device, or, built with QUIRE_CUDA_DEVICE, over
// a GPU. Thread safety: as the tests', none.
#pragma once

#include <gtest/gtest.h>

#include "kvcache/page_device_cuda.h"
#include "kvcache/page_reader.h"
#include "tests/support/engine_world.h"

#if !defined(QUIRE_CUDA_DEVICE)
#include "tests/emu/control.h"
#endif

namespace quire::testing {

inline constexpr uint64_t kMiB = uint64_t{1} << 20;

// Pages of 8 KiB, of one kv head: what many of them are made of.
inline World world_of_small_pages() {
  World world;
  world.layers = 1;
  world.query_heads = world.kv_heads = 1;
  world.head_dim = 32;
  world.page_tokens = 32;
  world.max_step_tokens = 64;
  world.key_codec = world.value_codec = CodecId::kF32;
  world.threads = 2;
  world.device_budget = 32 * kMiB;
  return world;
}

#if defined(QUIRE_CUDA_DEVICE)

class CudaEngine : public ::testing::Test {
 protected:
  // A GPU does not tell how many there were.
  class Launches {
   public:
    void expect_more_than(uint64_t /*count*/) const {}
  };
  // Those that choose kernels: a GPU has its own.
  template <typename Body>
  void for_all_capabilities(Body body) {
    body();
  }
};

#else

// Leaves settings and errors as they were; no engine may leave memory of the device behind.
class CudaEngine : public ::testing::Test {
 protected:
  void TearDown() override {
    emu::settings() = {};
    emu::reset_errors();
    EXPECT_EQ(emu::counters().allocations, 0U);
  }
  // Of kernels, from here on.
  class Launches {
   public:
    void expect_more_than(uint64_t count) const { EXPECT_GT(emu::counters().launches, before_ + count); }

   private:
    uint64_t before_ = emu::counters().launches;
  };
  template <typename Body>
  void for_all_capabilities(Body body) {
    for (const int capability : {8, 9}) {
      SCOPED_TRACE("compute capability " + std::to_string(capability));
      emu::settings().capability = capability;
      body();
    }
  }
};

#endif

inline Result<std::unique_ptr<Engine>> try_open_on_device(const World& world) {
  EngineOptions options = engine_options(world);
  options.open_page_device = [](const PageDeviceSetup& setup) { return create_cuda_page_device(setup); };
  return Engine::open(std::move(options));
}

// Fails the test when it does not open.
inline std::unique_ptr<Engine> open_on_device(const World& world) {
  Result<std::unique_ptr<Engine>> engine = try_open_on_device(world);
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return engine.ok() ? std::move(*engine) : nullptr;
}

// The least budget that an engine opens with, to 4 KiB.
inline uint64_t least(World world, uint64_t World::*budget) {
  uint64_t too_little = 0;
  uint64_t enough = world.*budget;
  while (enough - too_little > 4096) {
    world.*budget = (too_little + enough) / 2;
    (try_open_on_device(world).ok() ? enough : too_little) = world.*budget;
  }
  return enough;
}

inline ResidencyCounts counts_of(Engine& engine) {
  ResidencyLock lock = engine.residency().lock();
  return engine.residency().counts(lock);
}

using Pages = std::vector<std::vector<uint8_t>>;

// Of all layers in turn, wherever they lie.
inline Pages pages_of(Engine& engine, Sequence* sequence) {
  Pages pages;
  const Status status = engine.cache().run([&]() -> Status {
    PageReader reader(engine.residency());
    for (const SequenceLayer& layer : sequence->layers) {
      for (uint32_t i = 0; i < layer.table->pages.size(); ++i) {
        const Result<const uint8_t*> bytes = reader.read(layer.table, i);
        if (!bytes.ok()) return bytes.status();
        pages.emplace_back(*bytes, *bytes + reader.page()->bytes);
      }
    }
    return {};
  });
  EXPECT_TRUE(status.ok()) << status.message();
  return pages;
}

// Of all pages of all layers, in order.
inline std::vector<std::vector<uint8_t>> digests_of(Engine& engine, const Sequence* sequence) {
  std::vector<std::vector<uint8_t>> digests;
  const size_t bytes = engine.config().kv_heads * engine.residency().digest_bytes();
  EXPECT_GT(bytes, 0U);
  for (const SequenceLayer& layer : sequence->layers) {
    for (const Page* page : layer.table->pages) digests.emplace_back(page->digests, page->digests + bytes);
  }
  return digests;
}

// The worst relative difference of any row's output.
inline double worst_difference(const World& world, const Output& a, const Output& b) {
  double worst = 0;
  for (size_t layer = 0; layer < a.out.size(); ++layer) {
    EXPECT_EQ(a.out[layer].size(), b.out[layer].size());
    for (size_t at = 0; at < a.out[layer].size(); at += world.head_dim) {
      const auto begin = b.out[layer].begin() + static_cast<ptrdiff_t>(at);
      const std::vector<double> expected(begin, begin + world.head_dim);
      worst = std::max(worst, relative_error(a.out[layer].data() + at, expected));
    }
  }
  return worst;
}

// Appends `count` tokens, keys and values times `scale`. Without queries: what a prefill's attention costs on
// the emulator is another test's.
inline Status append_tokens(Engine& engine, const World& world, Sequence* sequence, uint64_t first,
                            uint64_t count, float scale = 1.0F) {
  const StepRequest request{sequence, first, count};
  Result<std::unique_ptr<OpenStep>> step = engine.cache().begin({&request, 1});
  if (!step.ok()) return step.status();
  for (uint32_t layer = 0; layer < world.layers; ++layer) {
    std::vector<float> keys = rows(world, Row::kKey, layer, first, count);
    std::vector<float> values = rows(world, Row::kValue, layer, first, count);
    for (float& x : keys) x *= scale;
    for (float& x : values) x *= scale;
    Status status = engine.cache().append(step->get(), layer, view(keys, world.head_dim, world.kv_heads),
                                          view(values, world.head_dim, world.kv_heads));
    if (status.ok()) status = engine.cache().wait(step->get());
    if (!status.ok()) return status;
  }
  return engine.cache().end(step->get());
}

}  // namespace quire::testing
