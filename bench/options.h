// The options that the programs share, and how a program ends.
// Thread safety: main's thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "bench/qwen3/cache.h"

// Its header takes seconds to compile: only those who add options include it.
namespace CLI {
class App;
}

namespace quire::bench {

// One codec for all keys and one for all values, or a mix of them that a calibration has chosen per layer.
struct CodecPair {
  static constexpr float kNoMix = 0;
  static constexpr float kOnlyMix = -1;

  quire_codec key;
  quire_codec value;
  float mix = kNoMix;  // its budget in bits; then key and value do not count

  std::string name() const;  // "rot4/rot3", "calibrated@3.25"
  std::string key_name() const;
  std::string value_name() const;
};
// "rot4/rot3", "rot4" for both sides, "calibrated@3.25", or "calibrated" for the only mix there is; throws
// qwen3::Error.
CodecPair parse_codec_pair(const std::string& text);

// "none", "top:K" (the K pages that weigh most), "share:F" (that share of all) or "mass:F" (the fewest that
// hold that share of the attention); throws qwen3::Error. The other fields stay as they are.
void parse_selection(const std::string& text, qwen3::SelectionOptions* selection);
// The same backwards.
std::string selection_name(const qwen3::SelectionOptions& selection);

// "cpu", "cuda" or "cuda:1" as quire_options.device; throws qwen3::Error.
uint32_t parse_device(const std::string& text);
std::string device_name(uint32_t device);

struct CommonOptions {
  std::filesystem::path model;
  std::filesystem::path json;         // empty: none is written
  std::filesystem::path calibration;  // empty: what the model's weights say
  qwen3::CacheOptions cache;          // its codecs are the program's to choose
  uint32_t threads;
  uint64_t seed = 0;

  bool selects() const {
    return cache.select.kind != QUIRE_SELECT_NONE || cache.prefill.kind != QUIRE_SELECT_NONE;
  }
};

// TMPDIR, or /tmp. Nothing is checked: whoever opens a file there says what is wrong with it.
std::filesystem::path temporary_folder();

// Adds the options to `app`; they are stored in *options, which also holds the defaults.
void add_common_options(CLI::App& app, CommonOptions* options);

// "post_rope" or "pre_rope"; throws qwen3::Error.
quire_key_space parse_key_space(const std::string& name);

// The options as they stand in a JSON file.
nlohmann::json to_json(const CommonOptions& options);

// Parses the command line and runs `body`. Returns the exit code: 0, or 2 after one sentence on stderr.
int run_program(CLI::App& app, int argc, char** argv, const std::function<void()>& body);

}  // namespace quire::bench
