// What a calibration knows about one model: layer params for its cache, statistics they came from, and mixes
// of codecs. A file of these is written by quire-calibrate and read by every program; FORMAT.md has its
// bytes. Thread safety: plain data and pure functions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "bench/options.h"
#include "bench/qwen3/cache.h"
#include "bench/qwen3/model.h"

namespace quire::bench {

// Per channel over the calibration's tokens, [kv_heads][head_dim] each; queries pooled over the group of a kv
// head. All may be empty.
struct ChannelStatistics {
  std::vector<float> query_rms;  // before the rotation by RoPE
  std::vector<float> key_rms;
  std::vector<float> key_mean;
  std::vector<float> key_peak;  // largest magnitude
  std::vector<float> value_rms;
  std::vector<float> value_peak;
};

struct LayerCalibration {
  qwen3::LayerParams params;  // its codecs are DEFAULT: mixes say which
  ChannelStatistics statistics;
};

struct CodecChoice {
  quire_codec key;
  quire_codec value;
};

// Codecs per layer, chosen to stay below a budget.
struct Mix {
  float budget;                     // bits per value of sealed pages
  std::vector<CodecChoice> layers;  // [layers]
};

struct Calibration {
  uint64_t model = 0;  // fingerprint
  uint32_t query_heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint64_t tokens = 0;  // that were read
  std::string text;     // what they were, for people
  std::vector<LayerCalibration> layers;
  std::vector<Mix> mixes;  // by budget
};

// Tells models apart: a hash of geometry and weights.
uint64_t fingerprint(const qwen3::Model& model);

// A calibration for `model` without anything in it.
Calibration empty_calibration(const qwen3::Model& model);

// Throws Error unless the calibration was made for this model.
void check_model(const Calibration& calibration, const qwen3::Model& model, const std::string& name);

// Bytes in memory and back. decode throws Error, whose sentence starts with `name`, for anything that encode
// did not write; sections of unknown kinds are skipped.
std::vector<uint8_t> encode(const Calibration& calibration);
Calibration decode(std::span<const uint8_t> bytes, const std::string& name);

// The same with a file, written whole or not at all. Both throw Error.
void write_calibration(const Calibration& calibration, const std::filesystem::path& path);
Calibration read_calibration(const std::filesystem::path& path);

// What the model's weights say, overridden by what the calibration says (nullptr: nothing). `codec` may name
// a mix of it; throws Error when there is no such mix.
qwen3::CacheGeometry calibrated_geometry(const qwen3::Model& model, const Calibration* calibration,
                                         const CodecPair& codec);

// "2.25", as names of mixes have it.
std::string budget_name(float budget);

}  // namespace quire::bench
