// A Quire cache for one model, opened through the C API.
// Thread safety: as quire.h says.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "bench/qwen3/model.h"
#include "bench/qwen3/selection.h"
#include "bench/qwen3/thread_pool.h"
#include "bindings/c/quire.h"

namespace quire::qwen3 {

struct CacheOptions {
  quire_codec key_codec = QUIRE_CODEC_ROT4;
  quire_codec value_codec = QUIRE_CODEC_ROT4;
  quire_key_space key_space = QUIRE_POST_ROPE;
  uint32_t page_tokens = 64;
  uint32_t sink_tokens = 4;
  uint64_t device_budget = 0;  // bytes, as all budgets; 0: no device tier
  uint32_t device = QUIRE_DEVICE_CPU;
  // Where pages of host memory are attended, with a CUDA device; 0: measured.
  uint64_t device_link_speed = 0;
  uint64_t host_attend_speed = 0;
  uint64_t device_attend_speed = 0;
  uint64_t host_budget = uint64_t{1} << 30;
  uint64_t nvme_budget = 0;       // 0: no disk tier
  std::string nvme_path;          // a folder
  uint32_t nvme_compression = 0;  // zstd level of pages on disk; 0: none
  quire_io_engine io_engine = QUIRE_IO_AUTO;
  uint32_t chunk_tokens = 512;  // largest number of tokens of one pass
  std::string trace_path;       // empty: no trace
  std::string store_path;       // empty: no store of blocks
  uint64_t store_budget = uint64_t{1} << 30;
  std::array<uint64_t, 2> fingerprint{};  // of the model (fingerprint.h), for the store
  SelectionOptions prefill;               // how chunks of a prompt attend
  SelectionOptions select;                // how tokens that are written or scored do
  bool choose_ahead = false;              // guess what the next layer chooses (Attention::choose_ahead)
  bool digests = false;                   // keep them even where neither chooses
  std::string access_trace_path;          // empty: none
  quire_eviction eviction = QUIRE_EVICT_AUTO;
};

// The levels of one codec that has codebooks: one per code, ascending within -127..127.
struct CodecLevels {
  quire_codec codec;
  std::vector<int8_t> levels;
};

// What a cache may know about one layer; quire.h has the meanings. Everything may be empty.
struct LayerParams {
  quire_codec key_codec = QUIRE_CODEC_DEFAULT;  // the cache's
  quire_codec value_codec = QUIRE_CODEC_DEFAULT;
  std::vector<float> key_balance;       // [kv_heads][head_dim]
  std::vector<CodecLevels> key_levels;  // of any number of codecs
  std::vector<CodecLevels> value_levels;
};

// What a cache must know about a model.
struct CacheGeometry {
  uint32_t layers;
  uint32_t query_heads;
  uint32_t kv_heads;
  uint32_t head_dim;
  std::vector<LayerParams> params;  // [layers], or empty
};

// With the balance that the q_norm and k_norm weights call for: s = sqrt(pair rms of q_norm / pair rms of
// k_norm), within the limits of quire.h.
CacheGeometry geometry_of(const Model& model);

// A codec by its name ("rot4"); throws Error with the names there are.
quire_codec parse_codec(const std::string& name);
std::string codec_name(quire_codec codec);

// Throws Error with the cache's own sentence unless `status` is QUIRE_OK. `cache` may be nullptr for open.
void check(quire_status status, const quire_cache* cache);

// quire_open, or what stands in for it where a test brings its own disk.
using OpenCache = std::function<quire_status(const quire_options* options, quire_cache** out)>;

class Cache {
 public:
  // Runs its loops on `pool`, which must outlive it. Throws Error.
  Cache(const CacheGeometry& geometry, const CacheOptions& options, ThreadPool& pool,
        const OpenCache& open = quire_open);

  quire_cache* handle() const { return handle_.get(); }
  const CacheOptions& options() const { return options_; }
  quire_stats stats() const;

 private:
  struct Close {
    void operator()(quire_cache* cache) const;
  };
  CacheOptions options_;
  std::unique_ptr<quire_cache, Close> handle_;
};

}  // namespace quire::qwen3
