// Opens caches for one model as the command line wants them: budgets, calibration, codecs.
// Thread safety: const calls from anywhere.
#pragma once

#include <optional>

#include "bench/calibration/calibration.h"
#include "bench/options.h"
#include "bench/qwen3/decoder.h"

namespace quire::bench {

class CacheSetup {
 public:
  // Reads the calibration that the options name. Throws Error when it is bad or of another model. The decoder
  // must outlive the setup.
  CacheSetup(const CommonOptions& options, const qwen3::Decoder& decoder);
  // The same with a calibration at hand.
  CacheSetup(const CommonOptions& options, const qwen3::Decoder& decoder, Calibration calibration);

  // Throws Error.
  qwen3::Cache open(const CodecPair& codec) const;
  // The same with params of its own.
  qwen3::Cache open(const qwen3::CacheGeometry& geometry, const CodecPair& codec) const;
  // A cache of that layer alone.
  qwen3::Cache open_layer(uint32_t layer, const CodecPair& codec) const;
  qwen3::CacheGeometry geometry(const CodecPair& codec) const;

 private:
  qwen3::CacheOptions options_;
  const qwen3::Decoder& decoder_;
  std::optional<Calibration> calibration_;
};

}  // namespace quire::bench
