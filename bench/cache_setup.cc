#include "bench/cache_setup.h"

namespace quire::bench {

CacheSetup::CacheSetup(const CommonOptions& options, const qwen3::Decoder& decoder)
    : options_(options.cache), decoder_(decoder) {
  if (options.calibration.empty()) return;
  calibration_ = read_calibration(options.calibration);
  check_model(*calibration_, decoder.model(), options.calibration.string());
}

CacheSetup::CacheSetup(const CommonOptions& options, const qwen3::Decoder& decoder, Calibration calibration)
    : options_(options.cache), decoder_(decoder), calibration_(std::move(calibration)) {}

qwen3::Cache CacheSetup::open(const CodecPair& codec) const { return open(geometry(codec), codec); }

qwen3::Cache CacheSetup::open(const qwen3::CacheGeometry& geometry, const CodecPair& codec) const {
  qwen3::CacheOptions options = options_;
  options.key_codec = codec.key;
  options.value_codec = codec.value;
  return {geometry, options, decoder_.pool()};
}

qwen3::CacheGeometry CacheSetup::geometry(const CodecPair& codec) const {
  return calibrated_geometry(decoder_.model(), calibration_ ? &*calibration_ : nullptr, codec);
}

qwen3::Cache CacheSetup::open_layer(uint32_t layer, const CodecPair& codec) const {
  qwen3::CacheGeometry one = geometry(codec);
  one.params = {one.params[layer]};
  one.layers = 1;
  return open(one, codec);
}

}  // namespace quire::bench
